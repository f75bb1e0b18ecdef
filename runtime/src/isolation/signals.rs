//! The signals that a waiting `nacre` gets, which are meant for the workload: they are blocked and
//! read from a signalfd.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd, siginfo},
    },
};

/// The `si_code` of a signal that no process has sent, such as a terminal's (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// Which processes of a container a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// The first one.
    First,
    All,
}

/// A signal that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) number: i32,
    /// Whether it is from the kernel, as a terminal's are.
    pub(super) by_kernel: bool,
}

/// Signals, as they arrive.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks all signals that can be blocked, in this thread, and so in all that it makes from
    /// here on: they are the workload's.
    pub(super) fn block() -> io::Result<Self> {
        // A fault in this process ends it all the same.
        let signals = SigSet::all();
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&signals, flags)?))
    }

    /// Returns a signal that has arrived, if one has. SIGPIPE for what this process has written
    /// itself is skipped: the write has failed, too.
    pub(super) fn next(&self) -> io::Result<Option<Received>> {
        let own = |info: &siginfo| {
            info.ssi_signo == libc::SIGPIPE as u32 && info.ssi_pid == std::process::id()
        };
        loop {
            return match self.0.read_signal() {
                Ok(Some(info)) if own(&info) => continue,
                Ok(info) => Ok(info.map(|info| Received {
                    number: info.ssi_signo as i32,
                    by_kernel: info.ssi_code == SI_KERNEL,
                })),
                Err(Errno::EINTR) => Ok(None),
                Err(e) => Err(e.into()),
            };
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the signal if it ends a creation: those signals do that end a process without a handler,
/// and are meant to.
pub(super) fn ends_a_start(signal: i32) -> Option<Signal> {
    Signal::try_from(signal).ok().filter(|signal| {
        matches!(
            signal,
            Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
        )
    })
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn what_is_heard_doesnt_end_the_process() {
        let signals = Signals::block().unwrap();
        assert_eq!(signals.next().unwrap(), None);
        raise(Signal::SIGUSR1).unwrap();
        let received = Received {
            number: libc::SIGUSR1,
            by_kernel: false,
        };
        assert_eq!(signals.next().unwrap(), Some(received));
        assert_eq!(signals.next().unwrap(), None);
    }

    #[test]
    fn a_pipe_that_broke_is_no_signal() {
        let signals = Signals::block().unwrap();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        drop(reader);
        assert_eq!(nix::unistd::write(&writer, b"x"), Err(Errno::EPIPE));
        assert_eq!(signals.next().unwrap(), None);
    }
}
