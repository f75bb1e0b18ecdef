//! What a machine's vCPUs share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_ioctls::VmFd;
use vm_memory::GuestMemoryMmap;

use super::kick::Kick;
use super::pause::Pause;
use super::wires::{connect, disconnect};
use crate::arch::Ports;
use crate::console::Console;
use crate::devices::bus::MmioBus;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mmio::MmioTransport;
use crate::end::{End, Threads};
use crate::error::Error;
use crate::exit::Exit;

/// What the vCPUs' threads share.
///
/// Fields are dropped in order: guest memory after the VM that has it mapped.
pub(crate) struct Machine {
    pub(crate) ports: Ports,
    pub(crate) mmio: MmioBus,
    /// The first place that devices are plugged into.
    first_slot: usize,
    console: Arc<Console>,
    pub(super) end: End,
    /// Makes the vCPUs notice that the machine has ended.
    kicks: Mutex<Vec<Arc<Kick>>>,
    pub(crate) pause: Pause,
    /// The vCPUs' threads.
    pub(super) threads: Threads,
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

    /// Sets what makes the vCPUs notice that the machine has ended.
    pub(crate) fn set_kicks(&self, kicks: Vec<Arc<Kick>>) {
        *self.kicks() = kicks;
    }

    /// Ends the machine. The first outcome to be reported counts.
    pub(crate) fn end(&self, outcome: Result<Exit, Error>) {
        if self.end.set(outcome) {
            self.kick();
            self.pause.lift();
        }
    }

    pub(super) fn kick(&self) {
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

    pub(super) fn plug(&self, device: Box<dyn VirtioDevice>) -> Result<usize, Error> {
        for index in self.first_slot.. {
            // A vCPU that accesses the place in the meantime waits, and sees the complete device.
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

    pub(super) fn unplug(&self, index: usize) {
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

    /// Records that a vCPU's thread has finished.
    pub(crate) fn thread_done(&self) {
        self.threads.done();
    }

    fn kicks(&self) -> MutexGuard<'_, Vec<Arc<Kick>>> {
        self.kicks.lock().unwrap_or_else(|e| e.into_inner())
    }
}
