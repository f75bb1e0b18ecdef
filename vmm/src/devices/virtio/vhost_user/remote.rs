//! A device that another process works for, as the monitor has it: the front end of vhost-user
//! (QEMU's docs/interop/vhost-user.rst). Once the driver is ready, guest memory, rings and events go
//! over the socket; after that the guest and the other process have to do with each other alone.
//!
//! The crate `vhost` has a front end too, which waits for an answer for ever. The other process may
//! have been stopped, or wait for a file system: nobody here waits longer than [`ANSWER_LIMIT`].

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost::vhost_user::message::{
    FrontendReq, VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use virtio_queue::QueueT;
use vm_memory::{Address, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::serve::VERSION;
use crate::devices::virtio::{ActivateError, Activation, ActiveQueue, VirtioDevice, config};

/// How long the other process may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

const PROTOCOL_FEATURES: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// A device whose back end is in another process.
pub struct RemoteDevice {
    device_type: u32,
    features: u64,
    queue_sizes: Vec<u16>,
    config: Vec<u8>,
    /// `None` once the other process has failed to do its part.
    link: Option<Link>,
    /// The queues that it works on.
    started: Vec<u32>,
}

/// The socket.
struct Link {
    socket: UnixStream,
    is_agreed: bool,
}

impl RemoteDevice {
    /// Makes the front end of a device of that type (virtio 1.3, section 5), with those features,
    /// queues and configuration space, whose back end is at the other end of `socket`.
    pub(crate) fn new(
        device_type: u32,
        features: u64,
        queue_sizes: &[u16],
        config: &[u8],
        socket: UnixStream,
    ) -> RemoteDevice {
        RemoteDevice {
            device_type,
            features,
            queue_sizes: queue_sizes.to_vec(),
            config: config.to_vec(),
            link: Some(Link {
                socket,
                is_agreed: false,
            }),
            started: Vec::new(),
        }
    }

    fn start(&mut self, activation: &Activation) -> io::Result<()> {
        let gone = || io::Error::other("the process that works for it doesn't answer");
        let link = self.link.as_mut().ok_or_else(gone)?;
        let event = activation.interrupt.used_event();
        let event = event.ok_or_else(|| io::Error::other("it can't interrupt the driver"))?;
        link.agree()?;
        link.set_features(activation.features)?;
        link.set_memory(&activation.memory)?;
        let queues = (0..).zip(&activation.queues);
        let ready: Vec<_> = queues.filter(|(_, active)| active.queue.ready()).collect();
        for (index, active) in &ready {
            link.set_ring(*index, active, event)?;
        }
        for (index, _) in ready {
            link.send(FrontendReq::SET_VRING_ENABLE, &state(index, 1), &[])?;
            self.started.push(index);
        }
        // Without this answer it would be unknown whether the device has started.
        link.ask(FrontendReq::GET_FEATURES, &[]).map(drop)
    }
}

/// The socket, once.
impl AsRawFd for RemoteDevice {
    fn as_raw_fd(&self) -> RawFd {
        self.link
            .as_ref()
            .map_or(-1, |link| link.socket.as_raw_fd())
    }
}

impl VirtioDevice for RemoteDevice {
    fn device_type(&self) -> u32 {
        self.device_type
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.start(&activation).map_err(|source| {
            self.link = None;
            ActivateError::Host {
                what: "handing a device's queues to the process that works for it",
                source,
            }
        })
    }

    /// Takes the queues back. If the other process doesn't answer, it gets no others: what it still
    /// does in guest memory is what the guest has asked it for.
    fn reset(&mut self) {
        let started = std::mem::take(&mut self.started);
        let Some(link) = &self.link else {
            return;
        };
        let stopped = started.into_iter().try_for_each(|index| {
            link.ask(FrontendReq::GET_VRING_BASE, &state(index, 0))?;
            link.send(FrontendReq::SET_VRING_ENABLE, &state(index, 0), &[])
        });
        if let Err(error) = stopped {
            let device_type = self.device_type;
            // If the other process has ended, whoever made it says so.
            tracing::debug!(device_type, "taking a virtio device's queues back: {error}");
            self.link = None;
        }
    }

    fn take_socket(&mut self) -> Option<UnixStream> {
        self.link.take().map(|link| link.socket)
    }
}

impl Link {
    /// Begins the conversation, once.
    fn agree(&mut self) -> io::Result<()> {
        if self.is_agreed {
            return Ok(());
        }
        self.socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        self.socket.set_write_timeout(Some(ANSWER_LIMIT))?;
        self.send(FrontendReq::SET_OWNER, &[], &[])?;
        self.ask(FrontendReq::GET_FEATURES, &[])?;
        self.ask(FrontendReq::GET_PROTOCOL_FEATURES, &[])?;
        let several_queues = VhostUserProtocolFeatures::MQ.bits().to_ne_bytes();
        self.send(FrontendReq::SET_PROTOCOL_FEATURES, &several_queues, &[])?;
        self.is_agreed = true;
        Ok(())
    }

    fn set_features(&self, features: u64) -> io::Result<()> {
        let features = (features | PROTOCOL_FEATURES).to_ne_bytes();
        self.send(FrontendReq::SET_FEATURES, &features, &[])
    }

    /// Sends the table of guest memory. Our own addresses in it are the guest's.
    fn set_memory(&self, memory: &GuestMemoryMmap) -> io::Result<()> {
        let mut body = (memory.num_regions() as u64).to_ne_bytes().to_vec();
        let mut files = Vec::new();
        for region in memory.iter() {
            let backing = region.file_offset();
            let backing = backing.ok_or_else(|| io::Error::other("guest memory isn't a file"))?;
            let guest = region.start_addr().raw_value();
            for number in [guest, region.len(), guest, backing.start()] {
                body.extend(number.to_ne_bytes());
            }
            files.push(backing.file().as_raw_fd());
        }
        self.send(FrontendReq::SET_MEM_TABLE, &body, &files)
    }

    fn set_ring(&self, index: u32, active: &ActiveQueue, event: &EventFd) -> io::Result<()> {
        let queue = &active.queue;
        let size = state(index, queue.size().into());
        self.send(FrontendReq::SET_VRING_NUM, &size, &[])?;
        let mut body = state(index, 0).to_vec();
        let log = 0;
        for address in [
            queue.desc_table(),
            queue.used_ring(),
            queue.avail_ring(),
            log,
        ] {
            body.extend(address.to_ne_bytes());
        }
        self.send(FrontendReq::SET_VRING_ADDR, &body, &[])?;
        let base = state(index, queue.next_avail().into());
        self.send(FrontendReq::SET_VRING_BASE, &base, &[])?;
        let number = u64::from(index).to_ne_bytes();
        let (call, kick) = (event.as_raw_fd(), active.notify.as_raw_fd());
        self.send(FrontendReq::SET_VRING_CALL, &number, &[call])?;
        self.send(FrontendReq::SET_VRING_KICK, &number, &[kick])
    }

    fn send(&self, request: FrontendReq, body: &[u8], files: &[RawFd]) -> io::Result<()> {
        let mut message = header(request, body).as_flattened().to_vec();
        message.extend(body);
        // The messages are short, and there is room for many.
        match self.socket.send_with_fds(&[&message[..]], files) {
            Ok(sent) if sent == message.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request and returns its answer, all of which have eight bytes.
    fn ask(&self, request: FrontendReq, body: &[u8]) -> io::Result<[u8; 8]> {
        self.send(request, body, &[])?;
        let mut answer = [0; 12 + 8];
        (&self.socket).read_exact(&mut answer)?;
        let (head, body) = answer.split_at(12);
        let expected = [
            request as u32,
            VERSION | VhostUserHeaderFlag::REPLY.bits(),
            body.len() as u32,
        ];
        if head != expected.map(u32::to_ne_bytes).as_flattened() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        body.try_into().map_err(io::Error::other)
    }
}

/// Returns the beginning of a request.
fn header(request: FrontendReq, body: &[u8]) -> [[u8; 4]; 3] {
    [request as u32, VERSION, body.len() as u32].map(u32::to_ne_bytes)
}

/// Returns a ring's number with something that goes with it.
fn state(index: u32, number: u32) -> [u8; 8] {
    let (mut bytes, [first, second]) = ([0; 8], [index, number].map(u32::to_ne_bytes));
    bytes[..4].copy_from_slice(&first);
    bytes[4..].copy_from_slice(&second);
    bytes
}

#[cfg(test)]
mod tests;
