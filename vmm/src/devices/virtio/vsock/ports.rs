//! The host's ports to which the guest can connect.
//!
//! The host and the device may be in different processes: what the host expects reaches the device
//! as messages, each with the device's end of the connection to be made. The device reads them
//! before it answers a guest that connects, so that whoever lets the guest know of a port finds it
//! expected.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::channel::{Channel, Message};

/// How many connections can be open, and how many ports can be expected, at a time.
pub const MAX_CONNECTIONS: usize = 1024;

/// No connection can be made to this port (`VMADDR_PORT_ANY`).
pub(super) const PORT_ANY: u32 = u32::MAX;

/// How long the device may take to make room for a message.
const LIMIT: Duration = Duration::from_secs(10);

/// The first byte of a message. The port follows, in the order of this processor.
const EXPECT: u8 = 1;
const FORGET: u8 = 2;
/// From the device: the guest has connected.
const TAKEN: u8 = 3;

/// A message's length.
const LENGTH: usize = 5;

/// The host's ports to which the guest can connect.
#[derive(Clone)]
pub struct Ports(Arc<Mutex<Host>>);

/// The host's side.
struct Host {
    channel: Channel,
    /// The ports to which the guest hasn't connected, as far as is known.
    expected: HashSet<u32>,
}

/// The device's side.
pub(super) struct Expected {
    channel: Channel,
    ends: HashMap<u32, UnixStream>,
}

/// Makes both sides.
pub(super) fn pair() -> io::Result<(Ports, Expected)> {
    let (host, device) = Channel::pair()?;
    let host = Host {
        channel: host,
        expected: HashSet::new(),
    };
    let expected = Expected {
        channel: device,
        ends: HashMap::new(),
    };
    Ok((Ports(Arc::new(Mutex::new(host))), expected))
}

impl Ports {
    /// Expects one connection from the guest to `port` of the host, and returns the host's end of
    /// it. Until the guest has connected, reads wait, and writes go to a buffer. Half-closes are
    /// passed on in both directions, after the data before them. The end of the machine, a reset of
    /// the device or an abort by the guest is an end of file.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if the port is already expected, `InvalidInput` for `u32::MAX`, `QuotaExceeded`
    /// if [`MAX_CONNECTIONS`] ports are expected, `NotConnected` if the device is gone, or the
    /// host's error if it has no more sockets.
    pub fn expect(&self, port: u32) -> io::Result<UnixStream> {
        let mut host = self.host();
        if port == PORT_ANY {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !host.hear() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if host.expected.contains(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        if host.expected.len() >= MAX_CONNECTIONS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (end, device) = UnixStream::pair()?;
        device.set_nonblocking(true)?;
        let sent = host
            .channel
            .send(&message(EXPECT, port), &[device.as_fd()], LIMIT);
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => io::ErrorKind::NotConnected.into(),
            _ => error,
        })?;
        host.expected.insert(port);
        Ok(end)
    }

    /// Stops expecting a connection to `port`, if none has been made: its host's end reads an end
    /// of file once the device has heard of it.
    pub fn forget(&self, port: u32) {
        let mut host = self.host();
        host.hear();
        if host.expected.remove(&port) {
            // If the device is gone, so is what it expected.
            let _ = host.channel.send(&message(FORGET, port), &[], LIMIT);
        }
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        // Each change is a single step, so the table is consistent whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's end of the line to the device.
impl AsRawFd for Ports {
    fn as_raw_fd(&self) -> RawFd {
        self.host().channel.as_raw_fd()
    }
}

impl Host {
    /// Hears which connections have been made by now. Returns false if the device is gone.
    fn hear(&mut self) -> bool {
        // There can be no more than ports that were expected: whoever sends more isn't heard.
        for _ in 0..=MAX_CONNECTIONS {
            match self.channel.take(LENGTH) {
                Ok(Some(heard)) => {
                    if let Some((TAKEN, port)) = parse(&heard.bytes) {
                        self.expected.remove(&port);
                    }
                }
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
        true
    }
}

impl Expected {
    /// Takes the device's end of an expected connection.
    pub(super) fn take(&mut self, port: u32) -> Option<UnixStream> {
        self.hear();
        let end = self.ends.remove(&port)?;
        // If it isn't heard, the port counts as expected, and nobody wants it again.
        let _ = self
            .channel
            .send(&message(TAKEN, port), &[], Duration::ZERO);
        Some(end)
    }

    /// Hears what is expected by now. Returns false once there is nobody who could expect more.
    pub(super) fn hear(&mut self) -> bool {
        loop {
            match self.channel.take(LENGTH) {
                Ok(Some(heard)) => self.note(heard),
                Ok(None) => return false,
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    fn note(&mut self, heard: Message) {
        match (parse(&heard.bytes), heard.files.into_iter().next()) {
            (Some((EXPECT, port)), Some(end)) => {
                self.ends.insert(port, end.into());
            }
            (Some((FORGET, port)), _) => {
                self.ends.remove(&port);
            }
            _ => {}
        }
    }
}

/// Readable when something is to be heard.
impl AsRawFd for Expected {
    fn as_raw_fd(&self) -> RawFd {
        self.channel.as_raw_fd()
    }
}

fn message(what: u8, port: u32) -> [u8; LENGTH] {
    let [a, b, c, d] = port.to_ne_bytes();
    [what, a, b, c, d]
}

fn parse(bytes: &[u8]) -> Option<(u8, u32)> {
    let [what, a, b, c, d] = bytes else {
        return None;
    };
    Some((*what, u32::from_ne_bytes([*a, *b, *c, *d])))
}
