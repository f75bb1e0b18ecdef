//! A queue as a device uses it: chains come out checked, and used ones go back.
//!
//! Everything in a queue was written by the guest and may change while it is read. A chain is
//! checked once, here: that it ends, that it is no longer than its queue (virtio 1.3, section
//! 2.7.5), that it lies in guest memory, and that what the device writes comes after what it reads
//! (2.7.4.2). A device then uses only [`Buffers`]. An error in the rings or in a chain can't be
//! reported within the queue, so it stops the device.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::buffers::Buffers;
use super::{ActivateError, Activation, ActiveQueue, Interrupt};

/// The features that every device here offers: virtio 1, and what [`DeviceQueue`] supports of rings
/// (indirect descriptors, and notifications only where they are waited for).
pub(crate) const BASIC_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// Why a queue can't be used any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    /// The rings are invalid.
    #[error("queue {queue} is broken: {source}")]
    Ring { queue: u16, source: Error },
    /// A chain is invalid.
    #[error("descriptor chain {head} of queue {queue} {problem}")]
    Chain {
        queue: u16,
        head: u16,
        problem: &'static str,
    },
}

/// A chain that the driver made available.
pub(crate) struct Chain<'m> {
    /// The head, to be passed to [`DeviceQueue::push`].
    pub(crate) head: u16,
    /// What the device reads.
    pub(crate) readable: Buffers<'m>,
    /// What the device writes.
    pub(crate) writable: Buffers<'m>,
}

/// One queue of an active device.
pub(crate) struct DeviceQueue {
    index: u16,
    queue: Queue,
    notify: EventFd,
    memory: Arc<GuestMemoryMmap>,
    interrupt: Arc<dyn Interrupt>,
    /// Whether the driver says which used entry it waits for (2.7.10).
    event_idx: bool,
    /// The end of the used ring when an interrupt for the driver was last considered.
    considered: u16,
}

impl DeviceQueue {
    /// Returns the next available chain. `memory` is the device's; it is passed in so that the
    /// chain doesn't borrow the queue.
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m GuestMemoryMmap,
    ) -> Result<Option<Chain<'m>>, QueueError> {
        let next = self
            .queue
            .iter(memory)
            .map(|mut available| available.next());
        let Some(descriptors) = next.map_err(|e| self.broken(e))? else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        let mut chain = Chain {
            head,
            readable: Buffers::default(),
            writable: Buffers::default(),
        };
        // The iterator ends at a descriptor from which it can't continue, just as it does at the
        // last one: the difference is whether another was announced.
        let mut more = true;
        let mut count = 0;
        for descriptor in descriptors {
            more = descriptor.has_next();
            count += 1;
            if count > self.queue.size() {
                return Err(self.bad_chain(head, "is longer than its queue"));
            }
            if descriptor.len() == 0 {
                continue;
            }
            let Ok(part) = memory.get_slice(descriptor.addr(), descriptor.len() as usize) else {
                return Err(self.bad_chain(head, "points outside guest memory"));
            };
            if descriptor.is_write_only() {
                chain.writable.push(part);
            } else if chain.writable.is_empty() {
                chain.readable.push(part);
            } else {
                return Err(self.bad_chain(head, "has something to read after something to write"));
            }
        }
        if more {
            return Err(self.bad_chain(head, "doesn't end"));
        }
        Ok(Some(chain))
    }

    /// Puts back the chain that was popped last, as if it hadn't been popped.
    pub(crate) fn unpop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain to the driver, with `written` bytes of it filled. [`Self::signal`] notifies
    /// the driver.
    pub(crate) fn push(&mut self, head: u16, written: usize) -> Result<(), QueueError> {
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        self.queue
            .add_used(&*self.memory, head, written)
            .map_err(|e| self.broken(e))
    }

    /// Returns several chains at once: the driver sees either none or all of them.
    pub(crate) fn push_together(&mut self, chains: &[(u16, usize)]) -> Result<(), QueueError> {
        let Some(((head, written), others)) = chains.split_last() else {
            return Ok(());
        };
        for (head, written) in others {
            let next = self.queue.next_used();
            let entry = [
                u32::from(*head),
                u32::try_from(*written).unwrap_or(u32::MAX),
            ];
            let at = self.queue.used_ring() + 4 + 8 * u64::from(next % self.queue.size());
            self.memory
                .write_obj(entry.map(u32::to_le), GuestAddress(at))
                .map_err(|e| self.broken(Error::GuestMemory(e)))?;
            self.queue.set_next_used(next.wrapping_add(1));
        }
        // With this, the index that the driver reads covers all of them.
        self.push(*head, *written)
    }

    /// Interrupts the driver if it wants to be notified of what was pushed since the last call.
    pub(crate) fn signal(&mut self) -> Result<(), QueueError> {
        let new = self.queue.next_used();
        let old = std::mem::replace(&mut self.considered, new);
        // What was pushed must be visible before the driver's wish is read. The queue's own check
        // doesn't know about chains that were pushed together.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx && new != old {
            let at = self.queue.avail_ring() + 4 + 2 * u64::from(self.queue.size());
            let event: u16 = self
                .memory
                .load(GuestAddress(at), Ordering::Relaxed)
                .map_err(|e| self.broken(Error::GuestMemory(e)))?;
            let event = u16::from_le(event);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            new != old
        };
        if wanted {
            self.interrupt.signal_used(self.index);
        }
        Ok(())
    }

    /// Asks the driver not to notify: the device checks by itself.
    pub(crate) fn pause_notifications(&mut self) -> Result<(), QueueError> {
        let paused = self.queue.disable_notification(&*self.memory);
        paused.map_err(|e| self.broken(e))
    }

    /// Asks the driver to notify. Returns true if chains have become available in the meantime:
    /// then check again instead of waiting.
    pub(crate) fn resume_notifications(&mut self) -> Result<bool, QueueError> {
        let more = self.queue.enable_notification(&*self.memory);
        more.map_err(|e| self.broken(e))
    }

    /// Returns what is readable after the driver's notification.
    pub(crate) fn notify(&self) -> &EventFd {
        &self.notify
    }

    /// Takes the driver's notification, if there is one.
    pub(crate) fn acknowledge(&self) {
        // If nothing can be read, there is no notification.
        let _ = self.notify.read();
    }

    /// Makes the error for a chain whose content makes no sense to the device.
    pub(crate) fn bad_chain(&self, head: u16, problem: &'static str) -> QueueError {
        QueueError::Chain {
            queue: self.index,
            head,
            problem,
        }
    }

    fn broken(&self, source: Error) -> QueueError {
        QueueError::Ring {
            queue: self.index,
            source,
        }
    }
}

/// Prepares the device's `N` queues for use.
///
/// # Errors
///
/// [`ActivateError::QueueNotReady`] names the first queue that the driver didn't set up, or whose
/// rings aren't in guest memory.
pub(crate) fn start_queues<const N: usize>(
    activation: Activation,
) -> Result<[DeviceQueue; N], ActivateError> {
    let queues = (0..).zip(start_ready_queues(activation)?);
    let started = queues.map(|(index, queue)| queue.ok_or(ActivateError::QueueNotReady(index)));
    started
        .collect::<Result<Vec<_>, _>>()?
        .try_into()
        .map_err(|short: Vec<_>| ActivateError::QueueNotReady(short.len() as u16))
}

/// Prepares the queues that the driver set up, for a device that can do without the others.
///
/// # Errors
///
/// [`ActivateError::QueueNotReady`] names the first queue whose rings aren't in guest memory.
pub(crate) fn start_ready_queues(
    activation: Activation,
) -> Result<Vec<Option<DeviceQueue>>, ActivateError> {
    let Activation {
        memory,
        queues,
        interrupt,
        features,
    } = activation;
    let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
    let start = |(index, active): (u16, ActiveQueue)| {
        let mut queue = active.queue;
        if !queue.ready() {
            return Ok(None);
        }
        if !rings_are_in_memory(&queue, &memory) {
            return Err(ActivateError::QueueNotReady(index));
        }
        queue.set_event_idx(event_idx);
        let considered = queue.next_used();
        set_nonblocking(&active.notify).map_err(|source| ActivateError::Host {
            what: "setting a notification up",
            source,
        })?;
        Ok(Some(DeviceQueue {
            index,
            queue,
            notify: active.notify,
            memory: Arc::clone(&memory),
            interrupt: Arc::clone(&interrupt),
            event_idx,
            considered,
        }))
    };
    (0..).zip(queues).map(start).collect()
}

/// Makes `file` nonblocking, for everybody who shares its open file description.
pub(super) fn set_nonblocking(file: &impl AsRawFd) -> io::Result<()> {
    let file = file.as_raw_fd();
    // SAFETY: plain calls on a file descriptor that the caller keeps open.
    let set = unsafe {
        let flags = libc::fcntl(file, libc::F_GETFL);
        flags >= 0 && libc::fcntl(file, libc::F_SETFL, flags | libc::O_NONBLOCK) == 0
    };
    if set {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Returns whether the rings lie wholly in guest memory, by the sizes in section 2.7: with the
/// event index at the end of both rings. `Queue::is_valid` requires another byte after each ring
/// and logs if it is missing; this doesn't.
pub(super) fn rings_are_in_memory(queue: &Queue, memory: &GuestMemoryMmap) -> bool {
    let size = u64::from(queue.size());
    [
        (queue.desc_table(), 16 * size),
        (queue.avail_ring(), 6 + 2 * size),
        (queue.used_ring(), 6 + 8 * size),
    ]
    .iter()
    .all(|(start, length)| memory.check_range(GuestAddress(*start), *length as usize))
}
