//! The socket device (virtio 1.3, section 5.10): stream connections that the guest opens to
//! ports of the host (CID 2), each ending in a Unix socket of this process.
//!
//! The host says which ports it expects a connection on ([`Ports::expect`]); a port serves
//! one connection, and the guest gets a reset on all others.
//!
//! What a guest can make the host allocate: [`MAX_CONNECTIONS`] connections, as far as the
//! host expects that many; for each, what is in the two sockets' kernel buffers and at most
//! [`connection::RECEIVE_WINDOW`] bytes that the host hasn't read yet; and a fixed number of
//! resets to be sent.

mod connection;
mod packet;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::queue::{self, BASIC_FEATURES};
use super::thread::DeviceThread;
use super::{ActivateError, Activation, VirtioDevice, config};
use worker::Worker;

/// The host's context id (virtio 1.3, section 5.10.4).
pub const HOST_CID: u64 = 2;

/// The number of connections that can be open, and of ports that can be expected, at a time.
pub const MAX_CONNECTIONS: usize = 1024;

/// No connection can be made to this port (`VMADDR_PORT_ANY`).
const PORT_ANY: u32 = u32::MAX;

/// Receive, transmit and event queue. Linux fills the first with buffers of 4 KiB at boot.
const QUEUE_SIZES: [u16; 3] = [128, 128, 8];

/// The first of them, which the device works on.
const WORKED_ON: usize = 2;

/// The device.
pub struct Vsock {
    guest_cid: u64,
    ports: Ports,
    thread: Option<DeviceThread>,
}

impl Vsock {
    /// A device for a guest whose context id is `guest_cid`, and the host's side of it.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `guest_cid` is one of the reserved ones: 0 to 2, `u32::MAX` and above.
    pub fn new(guest_cid: u64) -> io::Result<(Vsock, Ports)> {
        if guest_cid <= HOST_CID || guest_cid >= u64::from(u32::MAX) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a guest can't have this context id",
            ));
        }
        let ports = Ports::default();
        let vsock = Vsock {
            guest_cid,
            ports: ports.clone(),
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
        // No feature bit of its own means stream sockets (5.10.3).
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
        // The event queue is for a guest that moved to another host (5.10.6.7).
        activation.queues.truncate(WORKED_ON);
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let queues = queue::start_queues(activation)?;
        let host = |source| ActivateError::Host {
            what: "starting the vsock device",
            source,
        };
        let mut worker =
            Worker::new(self.guest_cid, memory, queues, self.ports.clone()).map_err(host)?;
        let work = move |stop: &_| worker.run(stop);
        self.thread = Some(DeviceThread::spawn("vsock", interrupt, work)?);
        Ok(())
    }

    /// Ends all connections; ports that no connection has come to are still expected.
    fn reset(&mut self) {
        self.thread = None;
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        self.reset();
        self.ports.close();
    }
}

/// The ports of the host that the guest can connect to.
#[derive(Clone, Default)]
pub struct Ports(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    expected: HashMap<u32, UnixStream>,
    closed: bool,
}

impl Ports {
    /// Expects one connection of the guest to `port` of the host, and returns the host's end
    /// of it. Until the guest has connected, reads wait, and writes go to a buffer. Half-closes
    /// go through in both directions, after the data before them. The end of the machine, a
    /// reset of the device or an abort by the guest is an end of file.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if the port is expected already, `InvalidInput` for `u32::MAX`,
    /// `QuotaExceeded` if [`MAX_CONNECTIONS`] ports are expected, `NotConnected` if the device
    /// is gone, or what the host says when it has no more sockets to give.
    pub fn expect(&self, port: u32) -> io::Result<UnixStream> {
        let mut table = self.table();
        if port == PORT_ANY {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if table.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if table.expected.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if table.expected.len() >= MAX_CONNECTIONS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (host, device) = UnixStream::pair()?;
        device.set_nonblocking(true)?;
        table.expected.insert(port, device);
        Ok(host)
    }

    /// Expects no connection to `port` any more, if none has come: its host's end reads an end
    /// of file then.
    pub fn forget(&self, port: u32) {
        drop(self.take(port));
    }

    /// Takes the device's end of an expected connection.
    fn take(&self, port: u32) -> Option<UnixStream> {
        self.table().expected.remove(&port)
    }

    fn close(&self) {
        let mut table = self.table();
        table.closed = true;
        table.expected.clear();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is one step, so the table is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
