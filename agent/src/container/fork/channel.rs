//! The channel between the engine and a container's init: a pair of sockets that exec closes.

use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send,
    socketpair,
};
use serde::{Deserialize, Serialize};

use crate::container::error::{InitError, describe};
use crate::container::kernel::sockets::send_fd;
use crate::container::kernel::wait::{FOREVER, wait_until_one_is_readable, wait_until_readable};

/// The longest message, in bytes. Only its paths and the kernel's error texts vary in length.
const MAX_MESSAGE: usize = 8 << 10;

/// How many characters are kept of a failure's message that doesn't fit, however JSON encodes them.
const WORDS_CUT: usize = 1 << 10;

/// The message that lets the init go on.
pub(crate) const GO: &[u8; 2] = b"go";

/// [`Report::Ready`] as it is sent, for a sender that can't serialize it.
pub(crate) const READY: &[u8] = b"\"Ready\"";

/// What the init tells the engine.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Its namespaces exist: the engine can run the hooks of the caller's namespaces. The init
    /// waits to be released.
    RuntimeHooks,
    /// It runs hooks, which may take this many seconds.
    Hooks(u64),
    /// The stage has made the process that the engine talks to from now on.
    Cloned {
        /// Its pid, as the engine sees it.
        pid: i32,
    },
    /// It has a terminal, whose master is attached to the message.
    Terminal,
    /// It is in its namespaces, and made the new ones itself. It waits to be released.
    Unshared,
    /// Everything that needs the engine is done: it loads the seccomp filter, and then makes the
    /// process that the engine talks to from now on.
    Crossing,
    /// Everything is set up; only the exec is left.
    Ready,
    /// It has loaded the seccomp filter. The filter's listener is attached to the message, for the
    /// engine to pass on.
    Filtered,
    /// It gave up.
    Failed(Failure),
}

/// Why the init gave up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// The message for the user.
    pub(crate) message: String,
    /// The exit status that a runtime's command ends with.
    pub(crate) status: u8,
}

/// One end of the channel.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

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
    /// Creates the engine's end and the init's.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        Ok((Channel(ours), Channel(theirs)))
    }

    /// Duplicates the descriptor of this end.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Channel)
    }

    /// The init: reports its progress to the engine.
    pub(crate) fn report(&self, report: &Report) -> io::Result<()> {
        self.report_with_fd(report, None)
    }

    /// As [`Channel::report`], with a descriptor for the engine.
    pub(crate) fn report_with_fd(
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

    /// The init: reports why it gave up. Returns the exit status that goes with it.
    pub(crate) fn give_up(&self, error: &InitError) -> i32 {
        let status = error.exit_status();
        // If the engine is gone, there is nobody left to tell.
        let _ = self.report(&Report::Failed(Failure {
            message: describe(error),
            status,
        }));
        status.into()
    }

    /// The engine: lets the init go on to the exec.
    pub(crate) fn release(&self) -> io::Result<()> {
        self.send(GO)
    }

    /// As [`Channel::release`], with a descriptor for the init.
    pub(crate) fn release_with(&self, fd: impl AsFd) -> io::Result<()> {
        send_fd(self.0.as_fd(), GO, fd.as_fd(), MsgFlags::empty())
    }

    /// The init: waits to be released. Returns `false` if the engine is gone.
    pub(crate) fn wait_for_release(&self) -> io::Result<bool> {
        let mut message = [0; GO.len()];
        Ok(self.receive(&mut message)? > 0)
    }

    /// The engine: waits for the init's next report. Returns `None` once the init has closed its
    /// end, which exec and exit do.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] after `bound`.
    pub(crate) fn wait_for_report(&self, bound: Duration) -> io::Result<Option<Report>> {
        let heard = self.wait_for_report_and_fd(bound)?;
        Ok(heard.map(|(report, _)| report))
    }

    /// As [`Channel::wait_for_report`], with the descriptor that was attached to it.
    pub(crate) fn wait_for_report_and_fd(
        &self,
        bound: Duration,
    ) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        if !wait_until_readable(self.0.as_fd(), bound)? {
            return Err(ErrorKind::TimedOut.into());
        }
        self.receive_report()
    }

    /// As [`Channel::wait_for_report_and_fd`]. Also returns `None` once the process of the pidfd
    /// `process` has ended: somebody who traced it may hold a copy of its end.
    pub(crate) fn wait_for_report_of(
        &self,
        process: BorrowedFd<'_>,
        bound: Duration,
    ) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        if !wait_until_one_is_readable(&[self.0.as_fd(), process], bound)? {
            return Err(ErrorKind::TimedOut.into());
        }
        if wait_until_readable(self.0.as_fd(), Duration::ZERO)? {
            self.receive_report()
        } else {
            Ok(None)
        }
    }

    fn receive_report(&self) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        let mut message = [0; MAX_MESSAGE];
        match self.receive_with_fd(&mut message) {
            Ok((0, _)) => Ok(None),
            // This end sent something that the other end didn't read before it closed.
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

/// Extends `bound` by the seconds that hooks may take.
pub(crate) fn with_hooks(bound: Duration, seconds: u64) -> Duration {
    let hooks = Duration::from_secs(seconds);
    bound.saturating_add(hooks).min(FOREVER)
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
