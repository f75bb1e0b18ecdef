//! A machine that KVM runs, and how it ends.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::shared::Machine;
use super::vcpu::Vcpu;
use crate::devices::virtio::VirtioDevice;
use crate::error::Error;
use crate::exit::Exit;

/// How long the vCPUs' threads may take to come out of the guest. They are out within milliseconds;
/// a device's reset may take longer.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How long they may take for that when the machine is paused.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// A machine that is running, or has ended by itself.
///
/// Dropping it stops it.
pub(crate) struct RunningKvm {
    machine: Arc<Machine>,
    threads: Vec<JoinHandle<()>>,
}

impl RunningKvm {
    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        self.machine.end.event()
    }

    pub(crate) fn console_tail(&self) -> String {
        self.machine.console_tail()
    }

    pub(crate) fn stop(&mut self) {
        self.machine.end(Ok(Exit::Stopped));
    }

    /// Puts a device into the first empty slot. Returns the number of its place.
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

    /// Wraps a machine that has no vCPU running yet.
    pub(crate) fn new(machine: Arc<Machine>) -> RunningKvm {
        RunningKvm {
            machine,
            threads: Vec::new(),
        }
    }

    /// Runs a vCPU in a thread of its own.
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
            // These threads keep what they need; nothing can be done about them.
            self.threads.clear();
            return Err(Error::StopTimeout);
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has recorded that as the machine's end.
            let _ = thread.join();
        }
        self.machine.mmio.reset();
        self.machine.end.take()
    }
}

impl Drop for RunningKvm {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}
