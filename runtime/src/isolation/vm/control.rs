//! The host's end of the control connection (`nacre_agent::protocol`), which never waits: the guest
//! may send half a message, or read nothing.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
};

use nacre_agent::protocol::{self, MAX_MESSAGE};
use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg},
};
use serde::{Serialize, de::DeserializeOwned};

/// How many bytes are read at a time.
const CHUNK: usize = 4096;

/// How many descriptors can come with a message: a process's standard streams.
const DESCRIPTORS: usize = 3;

/// What is wrong with the connection or with what came over it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("the guest closed its control connection")]
    Closed,
    #[error("the guest claimed a message of {0} bytes, over the limit of {MAX_MESSAGE}")]
    TooLong(usize),
    #[error("the guest sent what isn't in the protocol")]
    Garbage(#[source] serde_json::Error),
    #[error("the control connection to the guest failed")]
    Io(#[from] io::Error),
}

/// The control connection.
#[derive(Debug)]
pub(super) struct Control {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: VecDeque<u8>,
    /// The descriptors that came, if they are expected.
    descriptors: Option<Vec<OwnedFd>>,
}

impl Control {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            incoming: Vec::new(),
            outgoing: VecDeque::new(),
            descriptors: None,
        })
    }

    /// Accepts descriptors with messages from here on.
    pub(super) fn expect_descriptors(&mut self) {
        self.descriptors = Some(Vec::new());
    }

    /// Takes the descriptors that have come.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.descriptors
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Sends a short message with descriptors, at once. After an error the connection is of no more
    /// use: the other side has taken nothing for long.
    pub(super) fn send_with<T: Serialize>(
        &mut self,
        message: &T,
        descriptors: &[RawFd],
    ) -> Result<(), ControlError> {
        self.flush()?;
        if self.has_outgoing() {
            return Err(ControlError::Closed);
        }
        let mut frame = Vec::new();
        protocol::send(&mut frame, message)?;
        let rights = [ControlMessage::ScmRights(descriptors)];
        // With an empty list there must be no control message.
        let rights = match descriptors {
            [] => &[],
            _ => rights.as_slice(),
        };
        let sent = sendmsg::<UnixAddr>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(&frame)],
            rights,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent.map_err(io::Error::from)? {
            sent if sent == frame.len() => Ok(()),
            _ => Err(ControlError::Closed),
        }
    }

    /// Queues a message.
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ControlError> {
        protocol::send(&mut self.outgoing, message)?;
        Ok(())
    }

    /// Whether messages wait to be written.
    pub(super) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Writes as much as the connection takes without blocking.
    pub(super) fn flush(&mut self) -> Result<(), ControlError> {
        while self.has_outgoing() {
            match self.stream.write(self.outgoing.as_slices().0) {
                Ok(0) => return Err(ControlError::Closed),
                Ok(written) => drop(self.outgoing.drain(..written)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::BrokenPipe => return Err(ControlError::Closed),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Returns the next message, if all of it has arrived.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ControlError> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(Some(message));
            }
            let mut chunk = [0; CHUNK];
            match self.read(&mut chunk) {
                Ok(0) => return Err(ControlError::Closed),
                Ok(read) => self.incoming.extend_from_slice(&chunk[..read]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                    return Err(ControlError::Closed);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let Some(descriptors) = &mut self.descriptors else {
            return self.stream.read(chunk);
        };
        let mut rights = cmsg_space!([RawFd; DESCRIPTORS]);
        let mut chunk = [IoSliceMut::new(chunk)];
        let received = recvmsg::<UnixAddr>(
            self.stream.as_raw_fd(),
            &mut chunk,
            Some(&mut rights),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                // SAFETY: the kernel has just made these descriptors, for this process to own.
                let fds = fds
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                descriptors.extend(fds);
            }
        }
        Ok(received.bytes)
    }

    /// Takes a message from what has arrived, which never grows beyond a message and a chunk.
    fn parse<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ControlError> {
        let Some((length, rest)) = self.incoming.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(ControlError::TooLong(length));
        }
        let Some(json) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(json).map_err(ControlError::Garbage)?;
        self.incoming.drain(..4 + length);
        Ok(Some(message))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Message = Vec<String>;

    fn pair() -> (Control, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Control::new(ours).unwrap(), theirs)
    }

    #[test]
    fn a_message_arrives_byte_by_byte() {
        let (mut control, mut guest) = pair();
        let mut wire = Vec::new();
        protocol::send(&mut wire, &vec!["hello"]).unwrap();
        protocol::send(&mut wire, &vec!["again"]).unwrap();
        let first = wire.len() / 2;
        for (i, byte) in wire.iter().enumerate() {
            assert!(i == first || control.receive::<Message>().unwrap().is_none());
            guest.write_all(&[*byte]).unwrap();
            if i + 1 == first {
                let message = control.receive::<Message>().unwrap().unwrap();
                assert_eq!(message, ["hello"]);
            }
        }
        assert_eq!(control.receive::<Message>().unwrap().unwrap(), ["again"]);
        drop(guest);
        assert!(matches!(
            control.receive::<Message>(),
            Err(ControlError::Closed)
        ));
    }

    #[test]
    fn a_message_longer_than_the_limit_is_refused_at_its_length() {
        let (mut control, mut guest) = pair();
        guest.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(
            control.receive::<Message>(),
            Err(ControlError::TooLong(n)) if n == u32::MAX as usize
        ));
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        let (mut control, mut guest) = pair();
        guest.write_all(b"\x02\0\0\0{]").unwrap();
        assert!(matches!(
            control.receive::<Message>(),
            Err(ControlError::Garbage(_))
        ));
    }

    #[test]
    fn descriptors_come_with_their_message() {
        let (mut control, guest) = pair();
        let mut other = Control::new(guest).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        other.expect_descriptors();
        control.send(&vec!["first"]).unwrap();
        let fds = [theirs.as_raw_fd(); DESCRIPTORS];
        control.send_with(&vec!["second"], &fds).unwrap();
        drop(theirs);
        assert_eq!(other.receive::<Message>().unwrap().unwrap(), ["first"]);
        assert_eq!(other.receive::<Message>().unwrap().unwrap(), ["second"]);
        let received = other.take_descriptors();
        assert_eq!(received.len(), DESCRIPTORS);
        let mut stream = UnixStream::from(received.into_iter().next().unwrap());
        stream.write_all(b"through").unwrap();
        drop(stream);
        let mut text = String::new();
        ours.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        // Nobody reads.
        let long = vec!["x".repeat(1 << 20)];
        control.send(&long).unwrap();
        assert!(control.send_with(&vec!["third"], &fds).is_err());
    }

    #[test]
    fn a_guest_that_reads_nothing_holds_nobody_up() {
        let (mut control, mut guest) = pair();
        let long = vec!["x".repeat(1 << 20)];
        control.send(&long).unwrap();
        control.flush().unwrap();
        assert!(control.has_outgoing());
        let reader = std::thread::spawn(move || protocol::receive::<Message>(&mut guest));
        while control.has_outgoing() {
            control.flush().unwrap();
            std::thread::yield_now();
        }
        assert_eq!(reader.join().unwrap().unwrap().unwrap(), long);
    }
}
