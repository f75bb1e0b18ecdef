//! Signals to `nacre run` reach the workload: it passes them to its sandbox process, which
//! sends them to the guest. Both read them from a signalfd.

use std::{io, os::fd::AsFd};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// The signals that reach the workload.
pub(crate) const FORWARDED: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// What a terminal's job control sends. It is blocked, as neither process may be stopped:
/// the sandbox process reads and writes the terminal that it was given, and `nacre run` gives
/// the terminal's foreground back.
const JOB_CONTROL: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// The signals to forward, as they arrive.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks the signals in this thread, and so in all that are made of it from now on.
    pub(super) fn block() -> io::Result<Self> {
        let forwarded: SigSet = FORWARDED.into_iter().collect();
        let blocked: SigSet = FORWARDED.into_iter().chain(JOB_CONTROL).collect();
        blocked.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&forwarded, flags)?))
    }

    /// A signal that has arrived, if one has.
    pub(super) fn next(&self) -> io::Result<Option<Signal>> {
        match self.0.read_signal() {
            Ok(info) => Ok(info.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok())),
            Err(Errno::EINTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a signal ends a container that isn't started yet: those do that would end a
/// process without a handler and are meant to.
pub(super) fn ends_a_start(signal: Signal) -> bool {
    matches!(
        signal,
        Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
    )
}
