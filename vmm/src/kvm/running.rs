//! A machine that KVM runs, and how it ends.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;

use super::kick::Kick;
use super::machine::{connect, disconnect};
use super::pause::Pause;
use super::vcpu::Vcpu;
use crate::arch::Ports;
use crate::console::Console;
use crate::devices::bus::MmioBus;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mmio::MmioTransport;
use crate::end::{End, Threads};
use crate::error::Error;
use crate::vm::Exit;

/// How long the vCPUs' threads have for coming out of the guest. They are out within
/// milliseconds; a device's reset may take longer.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long they have for that when the machine is paused.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// A machine that runs, or has ended by itself.
///
/// Dropping it stops it.
pub(crate) struct Running {
    machine: Arc<Machine>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        self.machine.end.event()
    }

    pub(crate) fn console_tail(&self) -> String {
        self.machine.console_tail()
    }

    pub(crate) fn stop(&mut self) {
        self.machine.end(Ok(Exit::Stopped));
    }

    /// Puts a device into the first slot that has none. Gives the number of its place.
    pub(crate) fn plug(&self, device: Box<dyn VirtioDevice>) -> Result<usize, Error> {
        self.machine.plug(device)
    }

    /// Takes the device out of a slot, if there is one.
    pub(crate) fn unplug(&self, place: usize) {
        self.machine.unplug(place);
    }

    pub(crate) fn pause(&self) -> Result<(), Error> {
        let machine = &self.machine;
        machine.pause.request();
        machine.kick();
        let threads = self.threads.len();
        if machine.pause.wait(threads, || machine.ended(), PAUSE_LIMIT) {
            return Ok(());
        }
        self.resume();
        Err(Error::PauseTimeout)
    }

    pub(crate) fn resume(&self) {
        self.machine.pause.lift();
    }

    pub(crate) fn wait(mut self) -> Result<Exit, Error> {
        self.finish()
    }

    /// Of a machine that has no vCPU running yet.
    pub(crate) fn new(machine: Arc<Machine>) -> Running {
        Running {
            machine,
            threads: Vec::new(),
        }
    }

    /// Lets a vCPU run in a thread of its own.
    pub(crate) fn spawn(&mut self, name: String, vcpu: Vcpu) -> io::Result<()> {
        self.machine.threads.add();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || vcpu.run())
            .inspect_err(|_| self.machine.thread_done())?;
        self.threads.push(thread);
        Ok(())
    }

    fn finish(&mut self) -> Result<Exit, Error> {
        self.stop();
        if !self.machine.threads.wait(STOP_LIMIT) {
            // They keep what they need; nothing can be done about them.
            self.threads.clear();
            return Err(Error::StopTimeout);
        }
        for thread in self.threads.drain(..) {
            // One that panicked has recorded that as the machine's end.
            let _ = thread.join();
        }
        self.machine.mmio.reset();
        self.machine.end.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// What the vCPUs' threads share.
///
/// Fields are dropped in their order: guest memory after the VM that has it mapped.
pub(crate) struct Machine {
    pub(crate) ports: Ports,
    pub(crate) mmio: MmioBus,
    /// The first of the places that devices are plugged into.
    first_slot: usize,
    console: Arc<Console>,
    end: End,
    /// What makes the vCPUs see that it has ended.
    kicks: Mutex<Vec<Arc<Kick>>>,
    pub(crate) pause: Pause,
    /// The vCPUs' threads.
    threads: Threads,
    vm: VmFd,
    memory: Arc<GuestMemoryMmap>,
}

impl Machine {
    pub(crate) fn new(
        ports: Ports,
        mmio: MmioBus,
        first_slot: usize,
        console: Arc<Console>,
        vm: VmFd,
        memory: Arc<GuestMemoryMmap>,
    ) -> io::Result<Machine> {
        Ok(Machine {
            ports,
            mmio,
            first_slot,
            console,
            end: End::new()?,
            kicks: Mutex::default(),
            pause: Pause::default(),
            threads: Threads::default(),
            vm,
            memory,
        })
    }

    /// What makes the vCPUs see that the machine has ended.
    pub(crate) fn set_kicks(&self, kicks: Vec<Arc<Kick>>) {
        *self.kicks() = kicks;
    }

    /// Ends the machine. The first to say how it ended is believed.
    pub(crate) fn end(&self, outcome: Result<Exit, Error>) {
        if self.end.set(outcome) {
            self.kick();
            self.pause.lift();
        }
    }

    fn kick(&self) {
        for kick in self.kicks().iter() {
            kick.kick();
        }
    }

    pub(crate) fn ended(&self) -> bool {
        self.end.is_set()
    }

    pub(crate) fn console_tail(&self) -> String {
        self.console.tail()
    }

    fn plug(&self, device: Box<dyn VirtioDevice>) -> Result<usize, Error> {
        for index in self.first_slot.. {
            // A vCPU that looks at the place meanwhile waits, and sees the whole device.
            let mut place = self.mmio.place(index).ok_or(Error::NoSlot)?;
            if place.is_some() {
                continue;
            }
            let transport = MmioTransport::new(device, Arc::clone(&self.memory))
                .map_err(|source| Error::Device { index, source })?;
            if let Err(error) = connect(&self.vm, index, &transport) {
                disconnect(&self.vm, index, &transport);
                return Err(Error::host("connecting a device")(error));
            }
            *place = Some(transport);
            return Ok(index);
        }
        Err(Error::NoSlot)
    }

    fn unplug(&self, index: usize) {
        if index < self.first_slot {
            return;
        }
        let Some(mut place) = self.mmio.place(index) else {
            return;
        };
        if let Some(mut transport) = place.take() {
            disconnect(&self.vm, index, &transport);
            transport.reset();
        }
    }

    /// A vCPU's thread is through.
    pub(crate) fn thread_done(&self) {
        self.threads.done();
    }

    fn kicks(&self) -> MutexGuard<'_, Vec<Arc<Kick>>> {
        self.kicks.lock().unwrap_or_else(|e| e.into_inner())
    }
}
