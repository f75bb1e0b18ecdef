//! Notifications and interrupts: events that QEMU sends over the socket.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::{Mutex, MutexGuard};

use vhost::vhost_user::{Error, Result};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::{Interrupt, own_files, queue};

/// What `/proc/self/fd` shows for an event.
const EVENT: &CStr = c"anon_inode:[eventfd]";

/// Opens what it takes to know an event: those who serve front ends have no right to do so, and
/// the process may leave the file systems that it was started with.
pub(crate) fn prepare() -> io::Result<()> {
    own_files::directory().map(drop)
}

/// Makes an event of a file from QEMU, if the file is one, and makes it nonblocking. It stays
/// nonblocking only as long as QEMU cooperates: a QEMU that was taken over can undo it, as it
/// shares the open file description, and then hold up the thread that reads or writes the event
/// (there is no RWF_NOWAIT for writes to an event). So whoever waits for that thread does so with a
/// limit.
pub(super) fn event(file: File) -> Result<EventFd> {
    if !own_files::is(&file, EVENT).map_err(Error::ReqHandlerError)? {
        return Err(Error::InvalidOperation("a file that isn't an event"));
    }
    queue::set_nonblocking(&file).map_err(Error::ReqHandlerError)?;
    // SAFETY: the descriptor is an event's, and nobody else's any more.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

/// A device's interrupts: an event for each queue, which QEMU may change at any time.
pub(super) struct Calls {
    events: Vec<Mutex<Option<EventFd>>>,
    failed: Box<dyn Fn(&str) + Send + Sync>,
}

impl Calls {
    /// Makes room for `queues` queues; `failed` is told why the device can't continue.
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
            // Fails only if the interrupt is already pending.
            let _ = event.write(1);
        }
    }

    /// QEMU isn't told of a change, since that would need a channel of its own. The only change is
    /// that a network device's link goes down with its tap: QEMU decides the link's state by
    /// itself.
    fn signal_config(&self) {}

    /// There is no `DEVICE_NEEDS_RESET` over vhost-user.
    fn fail(&self, why: &str) {
        (self.failed)(why);
    }
}
