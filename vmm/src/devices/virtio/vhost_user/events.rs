//! Notifications and interrupts: events that QEMU sends over.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::{Mutex, MutexGuard};

use vhost::vhost_user::{Error, Result};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::{Interrupt, own_files, queue};

/// What `/proc/self/fd` shows for an event.
const EVENT: &CStr = c"anon_inode:[eventfd]";

/// An event out of a file from QEMU, if that is what it is, made such that nobody waits at it.
/// That holds for as long as QEMU keeps to it: one that was taken over can undo it, as it shares
/// the description, and then hold up the thread that reads or writes the event (there is no
/// RWF_NOWAIT for an event's writes). So whoever waits for that thread does so within a limit.
pub(super) fn event(file: File) -> Result<EventFd> {
    if !own_files::is(&file, EVENT).map_err(Error::ReqHandlerError)? {
        return Err(Error::InvalidOperation("a file that isn't an event"));
    }
    queue::set_nonblocking(&file).map_err(Error::ReqHandlerError)?;
    // SAFETY: the descriptor is an event's, and nobody else's now.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

/// A device's interrupts: an event for each queue, which QEMU may change at any time.
pub(super) struct Calls {
    events: Vec<Mutex<Option<EventFd>>>,
    failed: Box<dyn Fn(&str) + Send + Sync>,
}

impl Calls {
    /// For `queues` queues; `failed` is told why the device can't go on.
    pub(super) fn new(queues: usize, failed: Box<dyn Fn(&str) + Send + Sync>) -> Calls {
        Calls {
            events: (0..queues).map(|_| Mutex::default()).collect(),
            failed,
        }
    }

    /// Sets a queue's event, or that it has none.
    pub(super) fn set(&self, queue: usize, event: Option<EventFd>) {
        if let Some(mut slot) = self.slot(queue) {
            *slot = event;
        }
    }

    fn slot(&self, queue: usize) -> Option<MutexGuard<'_, Option<EventFd>>> {
        let slot = self.events.get(queue)?;
        Some(slot.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Interrupt for Calls {
    fn signal_used(&self, index: u16) {
        if let Some(slot) = self.slot(index.into())
            && let Some(event) = slot.as_ref()
        {
            // It fails only if the interrupt is pending anyway.
            let _ = event.write(1);
        }
    }

    /// QEMU isn't told of a change, for which a channel of its own would be needed. What changes is
    /// a network device's link that goes down with its tap: QEMU says itself what the link is.
    fn signal_config(&self) {}

    /// There is no `DEVICE_NEEDS_RESET` over vhost-user.
    fn fail(&self, why: &str) {
        (self.failed)(why);
    }
}
