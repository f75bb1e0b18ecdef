//! `nacre create` and `nacre run` on their side of the sandbox process: they make it, run the
//! hooks that belong on the host, start the container, pass signals on, and exit as it does.
//!
//! The two are tied together by a socket that only they hold. Until the container is created,
//! or for as long as it is waited for, the sandbox process ends when the command does, even by
//! SIGKILL.

use std::{
    fs,
    io::{Read, Write},
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
    isolation::{StatusError, console::Raw, hooks, pid_file, signals::Signals},
    log,
    state::{By, Folder, Record, Status, Store},
};

use super::{
    Found, How, Options, Plan, VmError, error::SANDBOX, heir::Heir, sandbox, start, streams,
};

/// What the sandbox process says: which process stands for the container. Its pid follows.
pub(super) const STANDS: u8 = b's';
/// What it says: it is in the container's namespaces, and waits for the hooks.
pub(super) const READY_FOR_HOOKS: u8 = b'h';
/// What it is answered: they have been run.
pub(super) const GO_ON: u8 = b'g';
/// What it says: the container is created.
pub(super) const CREATED: u8 = b'c';

/// Makes the sandbox process, and does with it what the plan says.
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
    let how = plan.options.how;
    // SAFETY: this process has no other thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(ours);
            let own_group = match how {
                How::Create | How::Detached => setsid().map(drop),
                How::InForeground { .. } => setpgid(Pid::from_raw(0), Pid::from_raw(0)),
            };
            // It can't fail: a child that was just made leads no group.
            let _ = own_group;
            let status = sandbox::main(plan, folder, &signals, theirs);
            std::process::exit(status.into());
        }
        Ok(ForkResult::Parent { child }) => {
            drop(theirs);
            // The rest is the sandbox process's alone.
            let Plan {
                id,
                options,
                record,
                hooks,
                own_terminal,
                ..
            } = plan;
            let caller = Caller {
                store,
                heir: None,
                sandbox: child,
                stand_in: None,
                id,
                options,
                record,
                hooks,
                folder,
                link: ours,
                signals,
                hooks_begun: false,
                own_terminal,
                raw: None,
            };
            caller.run()
        }
        Err(e) => {
            folder.remove()?;
            Err(VmError::host("can't fork")(e.into()))
        }
    }
}

/// The command, with the sandbox process.
struct Caller<'a> {
    store: &'a Store,
    /// What cleans up if this process is killed.
    heir: Option<Heir>,
    sandbox: Pid,
    /// What stands for the container, once the sandbox process has made it: a child of this
    /// process's as well.
    stand_in: Option<Pid>,
    id: Id,
    options: Options,
    /// As it was before there was a sandbox process.
    record: Record,
    hooks: hooks::OfCreation,
    folder: Folder,
    link: UnixStream,
    signals: Signals,
    /// Whether hooks may have been run, so that those of `poststop` are due.
    hooks_begun: bool,
    /// What the container's terminal shows at, until that is raw.
    own_terminal: Option<OwnedFd>,
    raw: Option<Raw>,
}

/// What came of waiting on the link.
#[derive(PartialEq, Eq)]
enum Heard {
    Stands(Pid),
    ReadyForHooks,
    Created,
    Ended,
}

impl Caller<'_> {
    fn run(mut self) -> Result<u8, VmError> {
        let how = self.options.how;
        let terminal = match how {
            How::InForeground { .. } => {
                // Both sides do this, so that it is done whoever comes first.
                let _ = setpgid(self.sandbox, self.sandbox);
                let terminal = Terminal::give_to(self.sandbox);
                // The sandbox process has them, and says when their end has come.
                streams::release_input_and_output()
                    .map_err(VmError::host("can't let go of the standard streams"))?;
                terminal
            }
            How::Create | How::Detached => None,
        };
        let made = self.make();
        let outcome = match (made, how) {
            (Ok(false), _) => self.reap_unmade(),
            (Err(error), _) => {
                self.undo();
                Err(error)
            }
            (Ok(true), How::Create | How::Detached) => Ok(0),
            (Ok(true), How::InForeground { keep }) => self.wait_for_end(keep),
        };
        drop(terminal);
        outcome
    }

    /// Has the container made and, if that is to be, started. False if the sandbox process has
    /// ended instead, which has said why.
    fn make(&mut self) -> Result<bool, VmError> {
        loop {
            match self.listen()? {
                Heard::Stands(pid) => {
                    self.stand_in = Some(pid);
                    self.make_heir()?;
                }
                Heard::ReadyForHooks => self.run_hooks()?,
                Heard::Created => break,
                Heard::Ended => return Ok(false),
            }
        }
        if let Some(path) = &self.options.pid_file {
            // It was told of before.
            pid_file::write(path, self.stand_in.unwrap_or(self.sandbox))?;
        }
        if let Some(terminal) = self.own_terminal.take() {
            let raw = Raw::of(terminal);
            self.raw = Some(raw.map_err(VmError::host("can't make the terminal raw"))?);
        }
        if self.options.how == How::Create {
            return Ok(true);
        }
        let started = self.start();
        if let (Err(_), Some(path)) = (&started, &self.options.pid_file) {
            let _ = fs::remove_file(path);
        }
        match started {
            // The sandbox process says why.
            Err(VmError::Status(StatusError::HasStopped)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Before the sandbox process leaves the host.
    fn make_heir(&mut self) -> Result<(), VmError> {
        if (How::InForeground { keep: false }) == self.options.how {
            let heir = Heir::make(self.store, &self.id, self.sandbox);
            let failed = "can't make a process that cleans up";
            self.heir = Some(heir.map_err(VmError::host(failed))?);
        }
        Ok(())
    }

    fn start(&self) -> Result<(), VmError> {
        let record = self.folder.record()?.ok_or(StatusError::HasStopped)?;
        let By::Vm(vm) = &record.by else {
            return Err(StatusError::HasStopped.into());
        };
        let found = Found::new(&record, vm, self.folder.path().into());
        start(&found, Status::Created)
    }

    fn run_hooks(&mut self) -> Result<(), VmError> {
        self.hooks_begun = true;
        let pid = self.stand_in.unwrap_or(self.sandbox).as_raw();
        self.hooks.run(&self.record, pid)?;
        // Whether it is still there will be heard.
        let _ = self.link.write_all(&[GO_ON]);
        Ok(())
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
            if let Some(signal) = signal
                && signal.number != libc::SIGCHLD
            {
                // SAFETY: the call touches no memory. The sandbox process isn't reaped yet, so
                // this can't meet another.
                unsafe { libc::kill(self.sandbox.as_raw(), signal.number) };
            }
            if heard {
                let mut word = [0];
                return Ok(match (self.link.read(&mut word), word) {
                    (Ok(1), [STANDS]) => self.hear_pid(),
                    (Ok(1), [READY_FOR_HOOKS]) => Heard::ReadyForHooks,
                    (Ok(1), [CREATED]) => Heard::Created,
                    _ => Heard::Ended,
                });
            }
        }
    }

    fn hear_pid(&mut self) -> Heard {
        let mut pid = [0; 4];
        match self.link.read_exact(&mut pid) {
            Ok(()) => Heard::Stands(Pid::from_raw(i32::from_le_bytes(pid))),
            Err(_) => Heard::Ended,
        }
    }

    /// Waits for the end of a container that runs.
    fn wait_for_end(mut self, keep: bool) -> Result<u8, VmError> {
        let ended = loop {
            match self.listen() {
                Ok(Heard::Ended) => break self.reap(),
                Ok(_) => {}
                Err(error) => {
                    let _ = kill(self.sandbox, Signal::SIGKILL);
                    let _ = self.reap();
                    break Err(error);
                }
            }
        };
        match keep {
            true => self.folder.remove_cgroup_of_remains(&self.id)?,
            false => self.remove()?,
        }
        ended
    }

    /// The sandbox process has ended before the container was there, or is about to.
    fn reap_unmade(self) -> Result<u8, VmError> {
        let outcome = self.reap();
        self.remove()?;
        // It has reported its error, which is never a success.
        outcome.map(|status| status.max(1))
    }

    /// Leaves nothing of the container, because of an error that is the one to tell.
    fn undo(self) {
        let _ = kill(self.sandbox, Signal::SIGKILL);
        let _ = self.reap();
        if let Err(error) = self.remove() {
            tracing::warn!("{}", log::chain(&error));
        }
    }

    /// Removes all that is left of a container whose sandbox process has ended.
    fn remove(self) -> Result<(), VmError> {
        self.folder.remove_cgroup_of_remains(&self.id)?;
        self.folder.remove()?;
        if self.hooks_begun {
            hooks::poststop(&self.record);
        }
        Ok(())
    }

    /// The sandbox process's exit status. It has reported its error, if it had one.
    fn reap(&self) -> Result<u8, VmError> {
        let status = self.reap_sandbox();
        if let Some(stand_in) = self.stand_in {
            // It ends as the sandbox process does, unless somebody has stopped it.
            let _ = kill(stand_in, Signal::SIGKILL);
            while waitpid(stand_in, None) == Err(Errno::EINTR) {}
        }
        status
    }

    fn reap_sandbox(&self) -> Result<u8, VmError> {
        loop {
            match waitpid(self.sandbox, None) {
                Ok(WaitStatus::Exited(_, status)) => return Ok(status as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    let record = self.folder.record()?.map(|record| record.by);
                    let cgroup = match &record {
                        Some(By::Vm(vm)) => vm.cgroup.as_ref(),
                        _ => None,
                    };
                    let error = VmError::host_memory(SANDBOX, cgroup);
                    return Err(error.unwrap_or(VmError::Killed(signal)));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => {
                    return Err(VmError::host("can't wait for the sandbox process")(
                        e.into(),
                    ));
                }
            }
        }
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
