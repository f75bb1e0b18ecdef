//! The line between the engine and a container's init: a pair of sockets that exec closes.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, send, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::error::{InitError, describe};

/// The longest message, in bytes. Only paths and the kernel's words are of any length in it.
const MAX_MESSAGE: usize = 8 << 10;

/// How many characters stay of a failure's words that don't fit, however JSON writes them.
const WORDS_CUT: usize = 1 << 10;

/// The word that lets the init go on.
pub(super) const GO: &[u8; 2] = b"go";

/// [`Report::Ready`] as it is sent, for who can't have it made.
pub(super) const READY: &[u8] = b"\"Ready\"";

/// Longer than anybody waits.
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What the init tells the engine.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// Its namespaces are there: it is time for the hooks of the caller's namespaces. It waits
    /// to be released.
    RuntimeHooks,
    /// It runs hooks, which may take that many seconds.
    Hooks(u64),
    /// The stage has made the process that is talked to from now on.
    Cloned {
        /// Its pid, as the engine sees it.
        pid: i32,
    },
    /// It has a terminal, whose master comes along.
    Terminal,
    /// It is in its namespaces, of which it made the new ones itself. It waits to be released.
    Unshared,
    /// Everything is done that needs the engine: it goes below the filter of system calls, and
    /// then makes the process that is talked to from now on.
    Crossing,
    /// Everything is set up; nothing but the exec is left.
    Ready,
    /// It is below the filter of system calls whose listener comes along; the engine is to pass
    /// that on.
    Filtered,
    /// It gave up.
    Failed(Failure),
}

/// Why the init gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(super) struct Failure {
    /// For a person.
    pub(super) message: String,
    /// The exit status that a runtime's command ends with.
    pub(super) status: u8,
}

/// One end of the line.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Channel(socket)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// The engine's end and the init's.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Channel(ours), Channel(theirs)))
    }

    /// Another descriptor of the same end.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Channel)
    }

    /// The init: tells the engine how it stands.
    pub(super) fn report(&self, report: &Report) -> io::Result<()> {
        self.report_with_fd(report, None)
    }

    /// As [`Channel::report`], with a descriptor that the engine gets too.
    pub(super) fn report_with_fd(
        &self,
        report: &Report,
        fd: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let mut message = serde_json::to_vec(report)?;
        if message.len() > MAX_MESSAGE
            && let Report::Failed(failure) = report
        {
            let words: String = failure.message.chars().take(WORDS_CUT).collect();
            message = serde_json::to_vec(&Report::Failed(Failure {
                message: format!("{words} …"),
                status: failure.status,
            }))?;
        }
        match fd {
            Some(fd) => send_fd(self.0.as_fd(), &message, fd, MsgFlags::empty()),
            None => self.send(&message),
        }
    }

    /// The init: says what it gave up for. Returns the exit status that goes with it.
    pub(super) fn give_up(&self, error: &InitError) -> i32 {
        let status = error.exit_status();
        // If the listener is gone, nobody is left to be told.
        let _ = self.report(&Report::Failed(Failure {
            message: describe(error),
            status,
        }));
        status.into()
    }

    /// The engine: lets the init go on to the exec.
    pub(super) fn release(&self) -> io::Result<()> {
        self.send(GO)
    }

    /// As [`Channel::release`], with a descriptor that the init gets too.
    pub(super) fn release_with(&self, fd: impl AsFd) -> io::Result<()> {
        send_fd(self.0.as_fd(), GO, fd.as_fd(), MsgFlags::empty())
    }

    /// The init: waits to be released. `false` if the engine is gone.
    pub(super) fn wait_for_release(&self) -> io::Result<bool> {
        let mut message = [0; GO.len()];
        Ok(self.receive(&mut message)? > 0)
    }

    /// The engine: waits for the init's next word; `None` once it has closed its end, which
    /// exec and exit do.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] after `bound`.
    pub(super) fn wait_for_report(&self, bound: Duration) -> io::Result<Option<Report>> {
        let heard = self.wait_for_report_and_fd(bound)?;
        Ok(heard.map(|(report, _)| report))
    }

    /// As [`Channel::wait_for_report`], with the descriptor that came with it.
    pub(super) fn wait_for_report_and_fd(
        &self,
        bound: Duration,
    ) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        if !wait_until_readable(self.0.as_fd(), bound)? {
            return Err(ErrorKind::TimedOut.into());
        }
        self.receive_report()
    }

    /// As [`Channel::wait_for_report_and_fd`]; also `None` once `process`, by its pidfd, has
    /// ended: somebody who traced it may hold a copy of its end.
    pub(super) fn wait_for_report_of(
        &self,
        process: BorrowedFd<'_>,
        bound: Duration,
    ) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        if !wait_until_one_is_readable(&[self.0.as_fd(), process], bound)? {
            return Err(ErrorKind::TimedOut.into());
        }
        match wait_until_readable(self.0.as_fd(), Duration::ZERO)? {
            true => self.receive_report(),
            false => Ok(None),
        }
    }

    fn receive_report(&self) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        let mut message = [0; MAX_MESSAGE];
        match self.receive_with_fd(&mut message) {
            Ok((0, _)) => Ok(None),
            // What was sent to an end that closed without reading it.
            Err(Errno::ECONNRESET) => Ok(None),
            other => {
                let (length, fd) = other?;
                let report = serde_json::from_slice(message.get(..length).unwrap_or_default())?;
                Ok(Some((report, fd)))
            }
        }
    }

    fn receive_with_fd(&self, message: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
        let mut space = cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(message)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = loop {
            match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        let mut fd = None;
        for control in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                for new in fds {
                    // SAFETY: the kernel just made this descriptor, and nothing else knows
                    // of it.
                    fd = Some(unsafe { OwnedFd::from_raw_fd(new) });
                }
            }
        }
        Ok((received.bytes, fd))
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        loop {
            match send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    fn receive(&self, message: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.0.as_raw_fd(), message, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

/// Sends `message` and a descriptor over a socket.
pub(super) fn send_fd(
    socket: BorrowedFd<'_>,
    message: &[u8],
    fd: BorrowedFd<'_>,
    flags: MsgFlags,
) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [IoSlice::new(message)];
    let flags = flags | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, flags, None) {
            Err(Errno::EINTR) => {}
            // What a stream takes no more of would never get there.
            Ok(sent) if sent < message.len() => return Err(ErrorKind::WriteZero.into()),
            other => return Ok(other.map(drop)?),
        }
    }
}

/// How long what may take `bound` may take with hooks that may take so many seconds.
pub(super) fn with_hooks(bound: Duration, seconds: u64) -> Duration {
    let hooks = Duration::from_secs(seconds);
    bound.saturating_add(hooks).min(FOREVER)
}

/// Waits until `fd` can be read without blocking; `false` if it can't after `bound`.
pub(super) fn wait_until_readable(fd: BorrowedFd<'_>, bound: Duration) -> io::Result<bool> {
    wait_until_one_is_readable(&[fd], bound)
}

/// As [`wait_until_readable`], for any of `fds`.
fn wait_until_one_is_readable(fds: &[BorrowedFd<'_>], bound: Duration) -> io::Result<bool> {
    let until = Instant::now() + bound;
    let asked_for = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
    let mut asked_for: Vec<PollFd<'_>> = asked_for.collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut asked_for, timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn reports_and_the_release_arrive() {
        let (engine, init) = Channel::pair().unwrap();
        let failed = Report::Failed(Failure {
            message: "no".into(),
            status: 127,
        });
        init.report(&Report::Ready).unwrap();
        init.report(&failed).unwrap();
        assert_eq!(engine.wait_for_report(SOON).unwrap(), Some(Report::Ready));
        assert_eq!(engine.wait_for_report(SOON).unwrap(), Some(failed));
        engine.release().unwrap();
        assert!(init.wait_for_release().unwrap());
    }

    #[test]
    fn the_word_that_is_sent_as_it_is_is_the_report() {
        assert_eq!(serde_json::to_vec(&Report::Ready).unwrap(), READY);
    }

    #[test]
    fn a_closed_end_is_seen_by_the_other() {
        let (engine, init) = Channel::pair().unwrap();
        drop(init);
        assert_eq!(engine.wait_for_report(SOON).unwrap(), None);
        assert!(engine.release().is_err(), "and no SIGPIPE");

        let (engine, init) = Channel::pair().unwrap();
        drop(engine);
        assert!(!init.wait_for_release().unwrap());
    }

    #[test]
    fn an_init_that_says_nothing_is_not_waited_for_long() {
        let (engine, _init) = Channel::pair().unwrap();
        let error = engine
            .wait_for_report(Duration::from_millis(20))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn an_endless_message_is_cut() {
        let (engine, init) = Channel::pair().unwrap();
        for character in ["x", "\u{1}", "\u{10348}"] {
            init.report(&Report::Failed(Failure {
                message: character.repeat(MAX_MESSAGE),
                status: 127,
            }))
            .unwrap();
            let report = engine.wait_for_report(SOON).unwrap().unwrap();
            let cut = format!("{} …", character.repeat(WORDS_CUT));
            let expected = Failure {
                message: cut,
                status: 127,
            };
            assert_eq!(report, Report::Failed(expected));
        }
    }
}
