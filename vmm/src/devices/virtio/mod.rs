//! Virtio devices (virtio 1.3).
//!
//! A device knows its features, its configuration space, its queues and guest memory. It
//! doesn't know how a driver reaches it: a *transport* does (virtio over MMIO inside the
//! monitor, vhost-user elsewhere), which owns the device, negotiates features, builds the
//! queues and hands them over at activation.

pub mod balloon;
pub mod block;
mod buffers;
mod config;
pub mod console;
pub mod fs;
pub(crate) mod mmio;
pub mod net;
mod own_files;
mod queue;
pub mod rng;
#[cfg(test)]
mod testing;
pub(crate) mod thread;
mod vector;
pub(crate) mod vhost_user;
pub mod vsock;

use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// A virtio device, as a transport sees it.
pub trait VirtioDevice: Send {
    /// The device's type (virtio 1.3, section 5).
    fn device_type(&self) -> u32;

    /// The feature bits that the device offers, `VIRTIO_F_VERSION_1` included.
    fn features(&self) -> u64;

    /// The largest size of each of its queues, in descriptors: as many as it has queues.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space from `offset`. Bytes beyond its end are left as they
    /// are (the transport has zeroed them).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space from `offset`. Most devices have nothing to write.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready: work on the queues from now on, on the device's own thread or
    /// event loop.
    ///
    /// # Errors
    ///
    /// [`ActivateError`]; the transport then sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stop working on the queues and forget them; the device may be activated again. Called
    /// when the driver resets the device and when the machine stops. Returns once no thread
    /// of the device touches guest memory.
    fn reset(&mut self);
}

/// What a transport hands to a device at activation.
pub struct Activation {
    /// Guest memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// The queues, in the device's order. A queue that the driver didn't enable isn't ready.
    pub queues: Vec<ActiveQueue>,
    /// How the device interrupts the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// The feature bits that the driver accepted.
    pub features: u64,
}

/// A queue at work: its rings, and the event that says that the driver has put something
/// into its available ring.
pub struct ActiveQueue {
    /// The rings. Every address in it came from the guest.
    pub queue: Queue,
    /// Readable after the driver's notification.
    pub notify: EventFd,
}

/// How a device interrupts its driver.
pub trait Interrupt: Send + Sync {
    /// The used ring of queue `index` has something new.
    fn signal_used(&self, index: u16);

    /// The configuration space has changed.
    fn signal_config(&self);

    /// The device met something that it can't go on from, such as a broken ring: the
    /// transport sets `DEVICE_NEEDS_RESET` (virtio 1.3, section 2.1.2), tells the driver and
    /// reports `why`. The device has stopped by itself.
    fn fail(&self, why: &str);
}

/// Why a device could not be activated.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver didn't set a queue up that the device can't do without.
    #[error("queue {0} was not set up by the driver")]
    QueueNotReady(u16),
    /// The host refused something that the device needs.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}
