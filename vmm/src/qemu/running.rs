//! A machine that QEMU runs, and how it ends.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::Builder;
use std::time::Duration;

use super::shared::Shared;
use crate::child::Child;
use crate::devices::virtio::net::{Net, NetSlot};
use crate::devices::virtio::thread::with_signals_blocked;
use crate::error::Error;
use crate::exit::Exit;
use crate::hypervisor::Qemu;

/// How long QEMU, once killed, and the devices may take to end.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A network device's name in messages.
const NET: &str = "net";

/// How long QEMU may take to stop.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// The places for network devices.
pub(super) struct NicSlots {
    /// The number of the first one.
    pub(super) first: usize,
    pub(super) slots: Vec<NetSlot>,
}

/// A machine that is running, or has ended.
pub(crate) struct RunningQemu {
    pub(super) qemu: Qemu,
    pub(super) shared: Arc<Shared>,
    pub(super) child: Arc<Child>,
    pub(super) nics: NicSlots,
}

impl RunningQemu {
    /// Puts a network device into the first empty slot. Returns the number of its place.
    pub(crate) fn plug_net(&self, mut net: Net) -> Result<usize, Error> {
        let (first, slots) = (self.nics.first, self.nics.slots.clone());
        self.within(STOP_LIMIT, move || {
            for (place, slot) in (first..).zip(slots) {
                match slot.fill(net).map_err(Error::Start)? {
                    None => return Ok(place),
                    Some(back) => net = back,
                }
            }
            Err(Error::NoSlot)
        })?
    }

    /// Takes the network device out of a slot, if there is one. If that fails, the machine ends.
    pub(crate) fn unplug_net(&self, place: usize) {
        let slot = place.checked_sub(self.nics.first);
        let slot = slot.and_then(|slot| self.nics.slots.get(slot)).cloned();
        if let Some(slot) = slot
            && let Err(error) = self.within(STOP_LIMIT, move || slot.clear())
        {
            self.shared.device_failed(NET, &error.to_string());
        }
    }

    /// Does work that may wait for a network device's threads. A QEMU that was taken over can hold
    /// them up: the machine ends if the work takes longer than `limit`.
    pub(super) fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (tell, told) = mpsc::channel();
        let builder = Builder::new().name("plug".into());
        // If the receiver has stopped waiting, nobody is told.
        let body = move || drop(tell.send(work()));
        with_signals_blocked(|| builder.spawn(body)).map_err(Error::host("starting a thread"))?;
        told.recv_timeout(limit).map_err(|_| {
            let why = "its threads did not stop in time";
            self.shared.device_failed(NET, why);
            Error::StopTimeout
        })
    }

    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        self.shared.end.event()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub(crate) fn console_tail(&self) -> String {
        self.shared.console.tail()
    }

    pub(crate) fn stop(&mut self) {
        self.shared.end.set(Ok(Exit::Stopped));
        self.child.kill();
    }

    /// Stops QEMU's process as a whole. It then answers nothing, but nobody waits for an answer:
    /// the devices' threads only ever wait for what QEMU sends.
    pub(crate) fn pause(&self) -> Result<(), Error> {
        match self.child.stop(PAUSE_LIMIT) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.resume()?;
                Err(Error::PauseTimeout)
            }
            Err(source) => Err(Error::host("stopping QEMU")(source)),
        }
    }

    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.child
            .signal(libc::SIGCONT)
            .map_err(Error::host("letting QEMU go on"))
    }

    pub(crate) fn wait(mut self) -> Result<Exit, Error> {
        let (outcome, exited) = self.finish();
        // If it isn't a suitable QEMU, that is the more useful error.
        match exited.then(|| self.qemu.fault()).flatten() {
            Some(error) => Err(error.into()),
            None => outcome,
        }
    }

    /// Returns how the machine ended, and whether QEMU exited by itself.
    pub(crate) fn wait_unjudged(mut self) -> (Result<Exit, Error>, bool) {
        self.finish()
    }

    pub(crate) fn process(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }

    fn finish(&mut self) -> (Result<Exit, Error>, bool) {
        self.stop();
        let ended = self.shared.threads.wait(STOP_LIMIT);
        let outcome = self.shared.end.take();
        let exited = self.shared.exited.load(Ordering::Acquire);
        if ended {
            return (outcome, exited);
        }
        // The threads keep what they need; nothing can be done about them.
        (outcome.and(Err(Error::StopTimeout)), exited)
    }
}

impl Drop for RunningQemu {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}
