//! Waits for a container's process in the foreground: passes signals on to it, and exits with its
//! status.

use std::os::fd::{AsFd, OwnedFd};

use nix::{errno::Errno, unistd::Pid};

use crate::isolation::{
    console::Raw,
    signals::Signals,
    wait::{Interest, wait},
};

use super::{error::ProcessError, terminal::ForegroundTerminal};

/// The waiting process, with the terminal of the process that it waits for.
pub(super) struct Foreground {
    signals: Signals,
    terminal: Option<ForegroundTerminal>,
}

impl Foreground {
    /// Waits for a process whose terminal's master this is, with ours.
    pub(super) fn new(
        signals: Signals,
        terminal: Option<(OwnedFd, Raw)>,
    ) -> Result<Self, ProcessError> {
        let terminal = terminal
            .map(|(master, ours)| ForegroundTerminal::new(master, ours))
            .transpose()
            .map_err(ProcessError::host("can't use the container's terminal"))?;
        Ok(Self { signals, terminal })
    }

    /// Makes this process's terminal raw.
    pub(super) fn raw() -> Result<Raw, ProcessError> {
        Raw::new().map_err(ProcessError::host("can't use the terminal of this process"))
    }

    /// Waits for a child's end, and reaps others that become children; returns its exit status,
    /// 128+n if signal n ended it.
    pub(super) fn wait(mut self, child: Pid) -> Result<u8, ProcessError> {
        let status = self.wait_for_status(child);
        if let Some(terminal) = self.terminal {
            terminal.finish();
        }
        status
    }

    fn wait_for_status(&mut self, child: Pid) -> Result<u8, ProcessError> {
        loop {
            let signals = self.signals.as_fd();
            let woken = match &mut self.terminal {
                Some(terminal) => terminal.carry_until(signals),
                None => wait(vec![Interest::readable((), signals)], None).map(drop),
            };
            woken.map_err(ProcessError::host("can't wait for the container"))?;
            while let Some(signal) = self
                .signals
                .next()
                .map_err(ProcessError::host("can't read a signal"))?
            {
                match (signal.number, &self.terminal) {
                    (libc::SIGCHLD, _) => {
                        if let Some(status) = reap(child)? {
                            return Ok(status);
                        }
                    }
                    (libc::SIGWINCH, Some(terminal)) => terminal.resize(),
                    // SAFETY: the call touches no memory. The child isn't reaped yet, so its pid
                    // can't be another process's; that it has ended is fine.
                    _ => drop(unsafe { libc::kill(child.as_raw(), signal.number) }),
                }
            }
        }
    }
}

/// Reaps all children that have ended; returns the exit status of `child` if it is among them.
fn reap(child: Pid) -> Result<Option<u8>, ProcessError> {
    let mut found = None;
    loop {
        let mut status = 0;
        // By the C library's call: nix doesn't know the realtime signals, which may have ended
        // the process.
        // SAFETY: `status` is valid for the call.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            0 => return Ok(found),
            -1 => match Errno::last() {
                Errno::EINTR => {}
                Errno::ECHILD => return Ok(found),
                e => return Err(ProcessError::host("can't wait for the container")(e)),
            },
            pid if pid == child.as_raw() => found = Some(exit_status(status)),
            _ => {}
        }
    }
}

/// Returns the exit status as a shell gives it.
fn exit_status(status: i32) -> u8 {
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status) as u8
    } else {
        libc::WEXITSTATUS(status) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_as_a_shell_has_them() {
        // As wait(2) lays them out: the exit status in the second byte, a signal in the first,
        // whose highest bit says that a core was dumped.
        for (raw, status) in [
            (0, 0),
            (0x0700, 7),
            (0xff00, 255),
            (9, 137),
            (0x86, 134),
            (64, 192),
        ] {
            assert_eq!(exit_status(raw), status, "{raw:#x}");
        }
    }
}
