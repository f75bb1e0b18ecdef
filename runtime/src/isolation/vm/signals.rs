//! Signals to `nacre run` reach the workload: it passes them to its sandbox process, which
//! sends them to the guest. Both read them from a signalfd.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::sys::signal::{SigSet, Signal};

use crate::isolation::signals;

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
pub(super) struct Signals(signals::Signals);

impl Signals {
    /// Blocks the signals in this thread, and so in all that are made of it from now on.
    pub(super) fn block() -> io::Result<Self> {
        let forwarded: SigSet = FORWARDED.into_iter().collect();
        let blocked: SigSet = FORWARDED.into_iter().chain(JOB_CONTROL).collect();
        Ok(Self(signals::Signals::block(&blocked, &forwarded)?))
    }

    /// A signal that has arrived, if one has.
    pub(super) fn next(&self) -> io::Result<Option<Signal>> {
        let signal = self.0.next()?;
        Ok(signal.and_then(|signal| Signal::try_from(signal).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
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
