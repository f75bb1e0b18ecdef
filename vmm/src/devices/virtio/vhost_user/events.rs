//! Notifications and interrupts: events that QEMU sends over.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::sync::{Mutex, MutexGuard};

use vhost::vhost_user::{Error, Result};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::Interrupt;

/// What `/proc/self/fd` shows for an event.
const EVENT: &str = "anon_inode:[eventfd]";

/// An event out of a file from QEMU, if that is what it is. Anything else could make a thread
/// that reads or writes it wait.
pub(super) fn event(file: File) -> Result<EventFd> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    if link.map_err(Error::ReqHandlerError)?.as_os_str() != EVENT {
        return Err(Error::InvalidOperation("a file that isn't an event"));
    }
    set_nonblocking(&file).map_err(Error::ReqHandlerError)?;
    // SAFETY: the descriptor is an event's, and nobody else's now.
    Ok(unsafe { EventFd::from_raw_fd(file.into_raw_fd()) })
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: plain calls on a file descriptor that `file` keeps open.
    let set = unsafe {
        let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) == 0
    };
    if set {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
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

    /// None of the devices that QEMU reaches changes its configuration: it would need a channel
    /// of its own, which isn't offered.
    fn signal_config(&self) {}

    /// There is no `DEVICE_NEEDS_RESET` over vhost-user.
    fn fail(&self, why: &str) {
        (self.failed)(why);
    }
}
