//! The device: its configuration and its thread.

use std::io;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::packet::HOST_CID;
use super::ports::{self, Expected, Ports};
use super::worker::Worker;
use crate::devices::virtio::queue::{self, BASIC_FEATURES};
use crate::devices::virtio::thread::DeviceThread;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice, config};

/// Receive, transmit and event queue. Linux fills the first with buffers of 4 KiB at boot.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// The first two, which the device uses.
const WORKED_ON: usize = 2;

/// The socket device.
pub struct Vsock {
    guest_cid: u64,
    expected: Arc<Mutex<Expected>>,
    thread: Option<DeviceThread>,
}

impl Vsock {
    /// Makes a device for a guest with the context id `guest_cid`, and the host's side of it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `guest_cid` is one of the reserved ones: 0 to 2, `u32::MAX` and above; or
    /// the host's error if it has no more sockets.
    pub fn new(guest_cid: u64) -> io::Result<(Vsock, Ports)> {
        if guest_cid <= HOST_CID || guest_cid >= u64::from(u32::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a guest can't have this context id",
            ));
        }
        let (ports, expected) = ports::pair()?;
        let vsock = Vsock {
            guest_cid,
            expected: Arc::new(Mutex::new(expected)),
            thread: None,
        };
        Ok((vsock, ports))
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        // Without feature bits of its own, it offers stream sockets (5.10.3).
        BASIC_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        // The event queue is for a guest that was moved to another host (5.10.6.7).
        activation.queues.truncate(WORKED_ON);
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let queues = queue::start_queues(activation)?;
        let host = |source| ActivateError::Host {
            what: "starting the vsock device",
            source,
        };
        let expected = Arc::clone(&self.expected);
        let mut worker = Worker::new(self.guest_cid, memory, queues, expected).map_err(host)?;
        let work = move |stop: &_| worker.run(stop);
        self.thread = Some(DeviceThread::spawn("vsock", interrupt, work)?);
        Ok(())
    }

    /// Ends all connections; ports to which no connection has been made are still expected.
    fn reset(&mut self) {
        self.thread = None;
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
    }
}
