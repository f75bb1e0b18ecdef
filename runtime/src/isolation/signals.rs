//! The signals that a waiting `nacre` gets, which are meant for the workload: they are blocked
//! and read from a signalfd.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::{
        signal::SigSet,
        signalfd::{SfdFlags, SignalFd},
    },
};

/// Signals, as they arrive.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    /// Blocks `blocked` in this thread, and so in all that are made of it from now on. Those of
    /// `heard` are to be had with [`Signals::next`].
    pub(super) fn block(blocked: &SigSet, heard: &SigSet) -> io::Result<Self> {
        blocked.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(heard, flags)?))
    }

    /// The number of a signal that has arrived, if one has.
    pub(super) fn next(&self) -> io::Result<Option<i32>> {
        match self.0.read_signal() {
            Ok(info) => Ok(info.map(|info| info.ssi_signo as i32)),
            Err(Errno::EINTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn what_is_heard_doesnt_end_the_process() {
        let heard: SigSet = [Signal::SIGUSR1].into_iter().collect();
        let signals = Signals::block(&heard, &heard).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        raise(Signal::SIGUSR1).unwrap();
        assert_eq!(signals.next().unwrap(), Some(libc::SIGUSR1));
        assert_eq!(signals.next().unwrap(), None);
    }
}
