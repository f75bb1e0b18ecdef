//! A device as a transport sees it, and what the two hand each other.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// A virtio device, as a transport sees it.
pub trait VirtioDevice: Send {
    /// Returns the device's type (virtio 1.3, section 5).
    fn device_type(&self) -> u32;

    /// Returns the feature bits that the device offers, including `VIRTIO_F_VERSION_1`.
    fn features(&self) -> u64;

    /// Returns the largest size of each of its queues, in descriptors: one entry per queue.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space from `offset`. Bytes beyond its end are left as they are (the
    /// transport has zeroed them).
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space at `offset`. Most devices have nothing that can be written.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// Starts working on the queues, as the driver is ready, on the device's own thread or event
    /// loop.
    ///
    /// # Errors
    ///
    /// [`ActivateError`]; the transport then sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops working on the queues and forgets them; the device may be activated again. Called when
    /// the driver resets the device and when the machine stops. Returns once no thread of the
    /// device touches guest memory.
    fn reset(&mut self);

    /// Takes the vhost-user socket of a device that another process works for: a transport that
    /// speaks vhost-user itself hands the socket on, and then does nothing else with the device.
    /// `None` if this process does the work.
    fn take_socket(&mut self) -> Option<UnixStream> {
        None
    }
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

/// An active queue: its rings, and the event that reports that the driver has put something into
/// its available ring.
pub struct ActiveQueue {
    /// The rings. Every address in it came from the guest.
    pub queue: Queue,
    /// Readable after the driver's notification.
    pub notify: EventFd,
}

/// How a device interrupts its driver.
pub trait Interrupt: Send + Sync {
    /// Reports that the used ring of queue `index` has something new.
    fn signal_used(&self, index: u16);

    /// Reports that the configuration space has changed.
    fn signal_config(&self);

    /// Reports an error from which the device can't continue, such as a broken ring: the transport
    /// sets `DEVICE_NEEDS_RESET` (virtio 1.3, section 2.1.2), notifies the driver and logs `why`.
    /// The device has stopped by itself.
    fn fail(&self, why: &str);

    /// Returns an event by which another process can do what [`signal_used`](Self::signal_used)
    /// does. From then on the transport can't know whether a used ring has something new, and says
    /// so whenever the driver asks. `None` if the transport has no such event.
    fn used_event(&self) -> Option<&EventFd> {
        None
    }
}

/// Why a device could not be activated.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver didn't set up a queue that the device needs.
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
