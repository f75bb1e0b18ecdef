//! `nacre create` and `nacre run` on their side of the sandbox process: they make it, run the hooks
//! that belong on the host, start the container, pass signals on, and exit with its status.
//!
//! The two are tied together by a socket that only they hold. Until the container is created, or
//! for as long as the command waits for it, the sandbox process ends when the command does, even by
//! SIGKILL.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nacre_vmm::phase;
use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpgrp, setpgid, setsid, tcgetpgrp, tcsetpgrp},
};

use crate::{
    config::{VmSettings, annotations::Annotations, bundle::Bundle},
    id::Id,
    isolation::{
        console::Raw,
        hooks, remains,
        signals::Signals,
        status_error::StatusError,
        told,
        wait::{Interest, wait},
    },
    log,
    state::{By, Folder, Record, Status, Store},
};

use super::{
    commands::start,
    error::{SANDBOX, VmError, filtered_call},
    found::VmContainer,
    heir::Heir,
    link::{CREATED, GO_ON, READY_FOR_HOOKS, STANDS},
    options::{RunMode, VmOptions},
    own_namespace,
    plan::Plan,
    sandbox,
    stdio::{self, StandardStream},
};

/// Runs an ordinary user's program anew as the root of a user namespace. To be called before
/// [`run`], while there is a single thread.
pub(crate) fn become_root() -> Result<(), VmError> {
    Ok(own_namespace::become_root()?)
}

/// Makes a container in a VM, and starts it, as `options.mode` says; returns its workload's exit
/// status, or 0 if it wasn't waited for.
pub(crate) fn run(
    store: &Store,
    id: Id,
    mut bundle: Bundle,
    annotations: &Annotations,
    config: &VmSettings,
    options: VmOptions,
) -> Result<u8, VmError> {
    own_namespace::translate(bundle.spec.linux_mut().as_mut())?;
    let plan = Plan::new(id, bundle, annotations, config, options)?;
    phase::ended("plan");
    carry_out(store, plan)
}

/// Makes the sandbox process, and carries out the plan with it.
fn carry_out(store: &Store, plan: Plan) -> Result<u8, VmError> {
    // From here on nacre cleans up after a signal.
    let signals = Signals::block().map_err(VmError::host("can't block signals"))?;
    let folder = remains::claim(store, &plan.id)?;
    let (ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(source) => {
            folder.remove()?;
            return Err(VmError::host("can't make a socket")(source));
        }
    };
    let mode = plan.options.mode;
    // SAFETY: this process has no other thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(ours);
            let own_group = match mode {
                RunMode::Create | RunMode::Detached => setsid().map(drop),
                RunMode::InForeground { .. } => setpgid(Pid::from_raw(0), Pid::from_raw(0)),
            };
            // It can't fail: a child that was just made leads no process group.
            let _ = own_group;
            let status = sandbox::main(plan, folder, &signals, theirs);
            std::process::exit(status.into());
        }
        Ok(ForkResult::Parent { child }) => {
            drop(theirs);
            // The rest of the plan is the sandbox process's alone.
            let Plan {
                id,
                options,
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
                hooks,
                folder,
                link: ours,
                signals,
                hooked: None,
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

/// The command, with its sandbox process.
struct Caller<'a> {
    store: &'a Store,
    /// The process that cleans up if this one is killed.
    heir: Option<Heir>,
    sandbox: Pid,
    /// The stand-in, once the sandbox process has made it: a child of this process as well.
    stand_in: Option<Pid>,
    id: Id,
    options: VmOptions,
    hooks: hooks::CreationHooks,
    folder: Folder,
    link: UnixStream,
    signals: Signals,
    /// The container's record, once hooks may have been run, so that those of `poststop` are due.
    hooked: Option<Record>,
    /// The terminal that shows the container's, until it is raw.
    own_terminal: Option<OwnedFd>,
    raw: Option<Raw>,
}

/// What the command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Link,
    Signals,
}

/// What the link has brought.
#[derive(PartialEq, Eq)]
enum Heard {
    Stands(Pid),
    ReadyForHooks,
    Created,
    Ended,
}

impl Caller<'_> {
    fn run(mut self) -> Result<u8, VmError> {
        let mode = self.options.mode;
        let terminal = match mode {
            RunMode::InForeground { .. } => {
                // Both sides do this, so that it is done whichever comes first.
                let _ = setpgid(self.sandbox, self.sandbox);
                let terminal = LentTerminal::give_to(self.sandbox);
                // The sandbox process holds these streams, and signals their end.
                stdio::release_input_and_output()
                    .map_err(VmError::host("can't let go of the standard streams"))?;
                terminal
            }
            RunMode::Create | RunMode::Detached => None,
        };
        let made = self.make();
        let outcome = match (made, mode) {
            (Ok(false), _) => self.reap_unmade(),
            (Err(error), _) => {
                self.undo();
                Err(error)
            }
            (Ok(true), RunMode::Create | RunMode::Detached) => Ok(0),
            (Ok(true), RunMode::InForeground { keep }) => self.wait_for_end(keep),
        };
        drop(terminal);
        outcome
    }

    /// Has the container made and, if it is to be, started. Returns false if the sandbox process
    /// has ended instead; it has said why.
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
        // The sandbox process has already reported its pid.
        let pid = self.stand_in.unwrap_or(self.sandbox);
        self.options.told.tell(told::StartedAs::First, pid)?;
        if let Some(terminal) = self.own_terminal.take() {
            let raw = Raw::make(terminal);
            self.raw = Some(raw.map_err(VmError::host("can't make the terminal raw"))?);
        }
        if self.options.mode == RunMode::Create {
            return Ok(true);
        }
        let started = self.start();
        if started.is_err() {
            self.options.told.take_back();
        }
        match started {
            // The sandbox process says why.
            Err(VmError::Status(StatusError::HasStopped)) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Makes the heir, before the sandbox process leaves the host.
    fn make_heir(&mut self) -> Result<(), VmError> {
        if (RunMode::InForeground { keep: false }) == self.options.mode {
            // SAFETY: this process has no other thread.
            let heir = unsafe { Heir::make(self.store, &self.id, self.sandbox) };
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
        let found = VmContainer::new(&record, vm, self.folder.path().into());
        start(&found, Status::Created)?;
        Ok(hooks::poststart(&record)?)
    }

    fn run_hooks(&mut self) -> Result<(), VmError> {
        let record = self.folder.record()?.ok_or(StatusError::HasStopped)?;
        let pid = self.stand_in.unwrap_or(self.sandbox).as_raw();
        self.hooks.run(self.hooked.insert(record), pid)?;
        // Whether the sandbox process is still there will be noticed later.
        let _ = self.link.write_all(&[GO_ON]);
        Ok(())
    }

    /// Passes signals on until the sandbox process says something.
    fn listen(&mut self) -> Result<Heard, VmError> {
        loop {
            let interests = vec![
                Interest::readable(Awaited::Link, self.link.as_fd()),
                Interest::readable(Awaited::Signals, self.signals.as_fd()),
            ];
            let events = wait(interests, None)
                .map_err(|e| VmError::host("can't wait for the sandbox process")(e.into()))?;
            let signal = self
                .signals
                .next()
                .map_err(VmError::host("can't read a signal"))?;
            if let Some(signal) = signal
                && signal.number != libc::SIGCHLD
            {
                // SAFETY: the call touches no memory. The sandbox process isn't reaped yet, so its
                // pid can't be another's.
                unsafe { libc::kill(self.sandbox.as_raw(), signal.number) };
            }
            if events.has(Awaited::Link) {
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

    /// Waits for a running container's end.
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
        if keep {
            remains::remove(&self.folder, &self.id)?;
        } else {
            self.remove()?;
        }
        ended
    }

    /// Reaps a sandbox process that has ended, or is about to, before the container was there.
    fn reap_unmade(self) -> Result<u8, VmError> {
        let outcome = self.reap();
        self.remove()?;
        // It has reported its error, which never counts as success.
        outcome.map(|status| status.max(1))
    }

    /// Removes everything of the container because of an error, which is the one to report.
    fn undo(self) {
        let _ = kill(self.sandbox, Signal::SIGKILL);
        let _ = self.reap();
        if let Err(error) = self.remove() {
            tracing::warn!("{}", log::chain(&error));
        }
    }

    /// Removes all that is left of a container whose sandbox process has ended.
    fn remove(self) -> Result<(), VmError> {
        remains::remove(&self.folder, &self.id)?;
        self.folder.remove()?;
        if let Some(record) = &self.hooked {
            hooks::poststop(record);
        }
        Ok(())
    }

    /// Returns the sandbox process's exit status. It has reported its error, if it had one.
    fn reap(&self) -> Result<u8, VmError> {
        let status = self.reap_sandbox();
        if let Some(stand_in) = self.stand_in {
            // The stand-in ends when the sandbox process does, unless somebody has stopped it.
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
                    if let (Signal::SIGSYS, Some(By::Vm(vm))) = (signal, &record) {
                        let call = filtered_call(&vm.sandbox);
                        return Err(VmError::Filtered { call });
                    }
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

/// The terminal in whose foreground `nacre run` is, given to the sandbox process for as long as it
/// runs. What the terminal sends (Ctrl-C) then goes to that process alone, and it may read the
/// terminal.
struct LentTerminal(OwnedFd);

impl LentTerminal {
    fn give_to(pid: Pid) -> Option<Self> {
        let terminal = StandardStream::ALL
            .into_iter()
            .find(|stream| tcgetpgrp(stream).is_ok_and(|foreground| foreground == getpgrp()))?;
        // Keep a descriptor of our own: the standard streams will be replaced.
        let kept = terminal.as_fd().try_clone_to_owned().ok()?;
        tcsetpgrp(&kept, pid).ok()?;
        Some(Self(kept))
    }
}

impl Drop for LentTerminal {
    fn drop(&mut self) {
        // SIGTTOU is blocked, so this works from the background.
        let _ = tcsetpgrp(&self.0, getpgrp());
    }
}
