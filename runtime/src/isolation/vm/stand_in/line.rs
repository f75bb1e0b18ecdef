//! What the sandbox process and the container's stand-in say to each other.
//!
//! First they take turns, until the stand-in is confined. Then the stand-in sends each signal that
//! it gets, and finally the sandbox process sends the container's exit status. When either ends, so
//! does the other.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};

use super::error::{StandInError, failed};

/// To the stand-in: go on.
pub(super) const GO_ON: u8 = b'g';
/// To the stand-in: this is the container's root; its descriptor comes with the word.
pub(super) const VIEW: u8 = b'v';
/// To the stand-in: the container has ended with the status that follows.
pub(super) const STATUS: u8 = b's';
/// From the stand-in: the step is done.
pub(super) const DONE: u8 = b'd';
/// From the stand-in: the step failed, for the reason that follows.
pub(super) const FAILED: u8 = b'f';

/// How long the stand-in may take for a step: it makes a few system calls.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How many bytes of its reason are read.
const MAX_REASON: u64 = 4096;

/// The sandbox process's end.
#[derive(Debug)]
pub(in crate::isolation::vm) struct Line(UnixStream);

impl Line {
    /// Makes both ends; the second is the stand-in's.
    pub(super) fn pair() -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(TIMEOUT))?;
        Ok((Self(ours), theirs))
    }

    /// Has the stand-in take a step, perhaps with a file, and waits until it has.
    pub(super) fn tell(&self, word: u8, file: Option<BorrowedFd<'_>>) -> Result<(), StandInError> {
        send(&self.0, word, file).map_err(failed("tell what to do"))?;
        let mut answer = [0];
        match (&self.0).read(&mut answer) {
            Ok(0) => Err(StandInError::Gone),
            Ok(_) if answer == [DONE] => Ok(()),
            Ok(_) => {
                let mut reason = String::new();
                // Whatever part of it arrives says enough.
                let _ = (&self.0).take(MAX_REASON).read_to_string(&mut reason);
                Err(StandInError::GaveUp(reason))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(StandInError::Silent),
            Err(error) => Err(failed("listen")(error)),
        }
    }

    /// Returns the next signal that the stand-in got; `None` if there is none or the stand-in has
    /// gone.
    pub(in crate::isolation::vm) fn signal(&self) -> Option<i32> {
        let mut number = [0_u8];
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: the pointer and the length are those of an array.
        let read = unsafe {
            let buffer = number.as_mut_ptr().cast();
            libc::recv(self.0.as_raw_fd(), buffer, number.len(), flags)
        };
        (read == 1).then(|| i32::from(number[0]))
    }

    /// Tells the stand-in the container's exit status, which it exits with once this process has
    /// ended.
    pub(in crate::isolation::vm) fn tell_status(&self, status: u8) {
        // The stand-in may have gone.
        let _ = (&self.0).write_all(&[STATUS, status]);
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn send(to: &UnixStream, word: u8, file: Option<BorrowedFd<'_>>) -> nix::Result<()> {
    let files = file.map(|file| [file.as_raw_fd()]);
    let control: Vec<_> = files.iter().map(|f| ControlMessage::ScmRights(f)).collect();
    let word = [word];
    let words = [IoSlice::new(&word)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(to.as_raw_fd(), &words, &control, flags, None).map(drop)
}

/// Waits, in the stand-in, for a word, and a file if one comes with it.
pub(super) fn receive(from: &UnixStream) -> io::Result<(u8, Option<OwnedFd>)> {
    let mut word = [0];
    let mut space = cmsg_space!(libc::c_int);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let (bytes, file) = loop {
        let mut words = [IoSliceMut::new(&mut word)];
        let space = Some(space.as_mut_slice());
        match recvmsg::<()>(from.as_raw_fd(), &mut words, space, flags) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(message) => {
                let mut files = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = control {
                        files.extend(fds);
                    }
                }
                // SAFETY: the kernel has just made the descriptor, for nobody else.
                let mut files = files
                    .into_iter()
                    .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                break (message.bytes, files.next());
            }
        }
    };
    match bytes {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok((word[0], file)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, thread};

    use super::*;

    #[test]
    fn words_files_and_signals_get_through() {
        let (line, mut theirs) = Line::pair().unwrap();
        let file = File::open("/dev/zero").unwrap();
        let stand_in = thread::spawn(move || {
            let (word, file) = receive(&theirs).unwrap();
            assert_eq!((word, file.is_some()), (VIEW, true));
            let mut byte = [1];
            File::from(file.unwrap()).read_exact(&mut byte).unwrap();
            assert_eq!(byte, [0]);
            theirs.write_all(&[DONE, 15, 10]).unwrap();
            let mut status = [0; 2];
            theirs.read_exact(&mut status).unwrap();
            status
        });
        line.tell(VIEW, Some(file.as_fd())).unwrap();
        assert_eq!((line.signal(), line.signal()), (Some(15), Some(10)));
        assert_eq!(line.signal(), None);
        line.tell_status(7);
        assert_eq!(stand_in.join().unwrap(), [STATUS, 7]);
        assert_eq!(line.signal(), None);
        assert!(matches!(
            line.tell(GO_ON, None),
            Err(StandInError::Step { .. })
        ));
    }

    #[test]
    fn a_reason_is_told() {
        let (line, mut theirs) = Line::pair().unwrap();
        theirs.write_all(b"fdo it").unwrap();
        drop(theirs.try_clone());
        let answer = thread::spawn(move || {
            receive(&theirs).unwrap();
        });
        let error = line.tell(GO_ON, None).unwrap_err();
        assert!(matches!(&error, StandInError::GaveUp(reason) if reason == "do it"));
        answer.join().unwrap();
    }
}
