//! A device with one pair of queues and nothing else, on a socket in the tap's place.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use super::pair::Pair;
use super::tap::TapQueue;
use crate::devices::virtio::queue::{self, BASIC_FEATURES};
use crate::devices::virtio::thread::DeviceThread;
use crate::devices::virtio::throttle::Throttle;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice};

/// The device.
pub(crate) struct Bare {
    pub(super) queue: Arc<TapQueue>,
    name: &'static str,
    pub(super) throttles: [Throttle; 2],
    thread: Option<DeviceThread>,
}

impl Bare {
    /// Makes a device whose thread has this name, and the other end. Like a tap, the socket
    /// preserves packet boundaries.
    pub(crate) fn new(name: &'static str) -> (Bare, File) {
        let mut ends = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: `ends` has room for the two descriptors, which are nobody else's.
        let [device, peer] = unsafe {
            assert_eq!(
                libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()),
                0
            );
            ends.map(|end| File::from_raw_fd(end))
        };
        let device = Bare {
            queue: Arc::new(TapQueue::new(device).unwrap()),
            name,
            throttles: Default::default(),
            thread: None,
        };
        (device, peer)
    }
}

impl VirtioDevice for Bare {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES | 1 << VIRTIO_NET_F_MRG_RXBUF
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let features = activation.features;
        let queues = queue::start_queues(activation)?;
        let tap = Arc::clone(&self.queue);
        let brakes = self.throttles.each_ref().map(|one| one.brake().unwrap());
        let work = move |stop: &_| {
            let pair = Pair::new(&tap, queues, &memory, features);
            pair.with_brakes(brakes).run(stop)
        };
        self.thread = Some(DeviceThread::spawn(self.name, interrupt, work)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.thread = None;
    }
}
