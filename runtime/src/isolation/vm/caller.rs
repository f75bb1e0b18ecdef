//! `nacre run` on its side of the sandbox process: it makes it, passes signals on, and exits
//! as it does.
//!
//! The two are tied together by a socket that only they hold. The sandbox process sends one
//! byte once the workload runs. Unless the container is detached, it ends when `nacre run`
//! does, even by SIGKILL.

use std::{
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpgrp, setpgid, setsid, tcgetpgrp, tcsetpgrp},
};

use crate::{
    id::Id,
    state::{Folder, Store},
};

use super::{Plan, VmError, sandbox, signals::Signals, streams};

/// Makes the sandbox process and waits for it.
pub(super) fn run(store: &Store, plan: Plan) -> Result<u8, VmError> {
    // From here on a signal finds somebody who cleans up.
    let signals = Signals::block().map_err(VmError::host("can't block signals"))?;
    let folder = store.claim(&plan.id)?;
    let (ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(source) => {
            folder.remove()?;
            return Err(VmError::host("can't make a socket")(source));
        }
    };
    let (detach, keep) = (plan.options.detach, plan.options.keep);
    let id = plan.id.clone();
    // SAFETY: this process has no other thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(ours);
            let own_group = match detach {
                true => setsid().map(drop),
                false => setpgid(Pid::from_raw(0), Pid::from_raw(0)),
            };
            // It can't fail: a child that was just made leads no group.
            let _ = own_group;
            let status = sandbox::main(plan, folder, &signals, theirs);
            std::process::exit(status.into());
        }
        Ok(ForkResult::Parent { child }) => {
            drop((theirs, plan));
            let sandbox = Sandbox {
                pid: child,
                id,
                link: ours,
                signals,
            };
            if detach {
                sandbox.wait_for_start(folder)
            } else {
                sandbox.wait_for_end(folder, keep)
            }
        }
        Err(e) => {
            folder.remove()?;
            Err(VmError::host("can't fork")(e.into()))
        }
    }
}

/// The sandbox process, as its parent sees it.
struct Sandbox {
    pid: Pid,
    /// The container's.
    id: Id,
    link: UnixStream,
    signals: Signals,
}

/// What came of waiting on the link.
#[derive(PartialEq, Eq)]
enum Heard {
    Started,
    Ended,
}

impl Sandbox {
    fn wait_for_start(mut self, folder: Folder) -> Result<u8, VmError> {
        match self.listen()? {
            Heard::Started => Ok(0),
            Heard::Ended => self.reap(folder, false),
        }
    }

    fn wait_for_end(mut self, folder: Folder, keep: bool) -> Result<u8, VmError> {
        // Both sides do this, so that it is done whoever comes first.
        let _ = setpgid(self.pid, self.pid);
        let terminal = Terminal::give_to(self.pid);
        // The sandbox process has them, and says when their end has come.
        streams::release_input_and_output()
            .map_err(VmError::host("can't let go of the standard streams"))?;
        let mut started = false;
        while self.listen()? == Heard::Started {
            started = true;
        }
        let outcome = self.reap(folder, keep && started);
        drop(terminal);
        outcome
    }

    /// Passes signals on until the sandbox process says something.
    fn listen(&mut self) -> Result<Heard, VmError> {
        loop {
            let mut fds = [
                PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(e) => {
                    return Err(VmError::host("can't wait for the sandbox process")(
                        e.into(),
                    ));
                }
                Ok(_) => {}
            }
            let heard = fds[0].any().unwrap_or(true);
            let signal = self
                .signals
                .next()
                .map_err(VmError::host("can't read a signal"))?;
            if let Some(signal) = signal {
                // It is still ours to reap, so this can't meet another process.
                let _ = kill(self.pid, signal);
            }
            if heard {
                return Ok(match self.link.read(&mut [0]) {
                    Ok(1) => Heard::Started,
                    _ => Heard::Ended,
                });
            }
        }
    }

    /// The sandbox process has closed the link, so it is about to end or has.
    fn reap(self, folder: Folder, keep: bool) -> Result<u8, VmError> {
        loop {
            match waitpid(self.pid, None) {
                // It has reported its error, if it had one, and removed its state.
                Ok(WaitStatus::Exited(_, status)) => return Ok(status as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => return self.killed(signal, folder, keep),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => {
                    return Err(VmError::host("can't wait for the sandbox process")(
                        e.into(),
                    ));
                }
            }
        }
    }

    fn killed(self, signal: Signal, folder: Folder, keep: bool) -> Result<u8, VmError> {
        folder.remove_cgroup_of_remains(&self.id)?;
        if !keep {
            folder.remove()?;
        }
        Err(VmError::Killed(signal))
    }
}

/// The terminal that `nacre run` is in the foreground of, given to the sandbox process for
/// as long as it runs. What the terminal sends (Ctrl-C) then goes to it alone, and it may
/// read the terminal.
struct Terminal(OwnedFd);

impl Terminal {
    fn give_to(pid: Pid) -> Option<Self> {
        let terminal = (0..=2)
            .map(streams::borrow)
            .find(|fd| tcgetpgrp(fd).is_ok_and(|foreground| foreground == getpgrp()))?;
        // Keep what is ours: the standard streams are let go of.
        let kept = terminal.try_clone_to_owned().ok()?;
        tcsetpgrp(&kept, pid).ok()?;
        Some(Self(kept))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // SIGTTOU is blocked, so this works from the background.
        let _ = tcsetpgrp(&self.0, getpgrp());
    }
}
