//! Messages, and open files with them, between two processes of ours: a pair of sockets that keep
//! the messages apart.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// The most files that come with a message.
pub(crate) const MAX_FILES: usize = 16;

/// One end of the pair. Nothing that the other end does holds up whoever uses it for longer than
/// they say.
pub(crate) struct Channel(OwnedFd);

/// What was received.
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) files: Vec<OwnedFd>,
}

impl Channel {
    /// Makes both ends.
    pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Channel(one), Channel(other)))
    }

    /// Sends a message, with at most [`MAX_FILES`] files, and waits for room for it, at most for
    /// `limit`.
    ///
    /// # Errors
    ///
    /// `TimedOut`; `BrokenPipe` if the other end is closed; or another of the host's.
    pub(crate) fn send(
        &self,
        bytes: &[u8],
        files: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        loop {
            let mut rights = SendAncillaryBuffer::new(&mut space);
            if !files.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(files)) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let slices = [IoSlice::new(bytes)];
            match sendmsg(&self.0, &slices, &mut rights, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT, Some(limit))?,
                // The other end is closed, with messages that nobody has taken.
                Err(rustix::io::Errno::CONNRESET) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes the next message, of at most `longest` bytes, if there is one by now; `None` at the
    /// end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none, `InvalidData` if it was longer, or had more files than it may.
    pub(crate) fn take(&self, longest: usize) -> io::Result<Option<Message>> {
        let mut bytes = vec![0; longest];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut slices, &mut rights, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                received => break received?,
            }
        };
        let files = rights.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        });
        let files = files.flatten().collect();
        if received
            .flags
            .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
        {
            return Err(io::ErrorKind::InvalidData.into());
        }
        bytes.truncate(received.bytes);
        // No message of ours is empty.
        Ok((received.bytes > 0).then_some(Message { bytes, files }))
    }

    /// Waits for the next message, at most for `limit` if there is one, and takes it.
    ///
    /// # Errors
    ///
    /// As [`Channel::take`], and `TimedOut`.
    pub(crate) fn receive(
        &self,
        longest: usize,
        limit: Option<Duration>,
    ) -> io::Result<Option<Message>> {
        loop {
            match self.take(longest) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, limit)?;
                }
                taken => return taken,
            }
        }
    }

    fn wait(&self, what: PollFlags, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.map(Timespec::try_from).transpose();
        let limit = limit.map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut waited = [PollFd::new(&self.0, what)];
        loop {
            match poll(&mut waited, limit.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(fuzzing)]
impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

/// Readable when there is a message, or the other end is closed.
impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    #[test]
    fn messages_stay_apart_and_bring_files() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        ours.send(b"one", &[writer.as_fd()], SHORT).unwrap();
        ours.send(b"two", &[], SHORT).unwrap();
        drop(writer);
        let one = theirs.take(10).unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.files.len()), (&b"one"[..], 1));
        let sent = one.files.into_iter().map(File::from).next();
        sent.unwrap().write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        assert_eq!(theirs.take(10).unwrap().unwrap().bytes, b"two");
        let none = theirs.take(10).err().unwrap();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn nobody_waits_for_ever_or_takes_too_much() {
        let (ours, theirs) = Channel::pair().unwrap();
        let late = theirs.receive(10, Some(SHORT)).err().unwrap();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        ours.send(&[7; 11], &[], SHORT).unwrap();
        let long = theirs.take(10).err().unwrap();
        assert_eq!(long.kind(), io::ErrorKind::InvalidData);
        let full = loop {
            if let Err(error) = ours.send(&[7; 1000], &[], SHORT) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
        let gone = ours.send(b"x", &[], SHORT).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
        assert!(ours.receive(10, None).unwrap().is_none());
    }
}
