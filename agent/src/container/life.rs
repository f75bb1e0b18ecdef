//! A container's life, once it has been created.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::cgroups::{Cgroup, CgroupError};
use super::channel::{Channel, Report, with_hooks};
use super::child;
use super::gate::Gate;
use super::identity::Identity;
use super::sys;

/// How long the workload's exec may take.
const EXEC_BOUND: Duration = Duration::from_secs(60);

/// What another process needs to take hold of a container ([`Container::attach`]).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Handle {
    /// The first process.
    pub init: Identity,
    /// The container's cgroup.
    pub cgroup: Option<Cgroup>,
}

/// Why a created container's workload wasn't started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was started before.
    #[error("the container was started before")]
    AlreadyStarted,
    /// The init is gone, or can't be reached.
    #[error("can't reach the container's init")]
    Init(#[source] io::Error),
    /// The workload's program could not be executed, or a hook failed. The init has ended.
    #[error("{message}")]
    Exec {
        /// What happened.
        message: String,
        /// What [`StartError::exit_status`] says.
        status: u8,
    },
    /// The exec takes too long.
    #[error("the exec isn't done after {0} s")]
    TimedOut(u64),
}

impl StartError {
    /// As [`CreateError::exit_status`](super::CreateError::exit_status).
    pub fn exit_status(&self) -> u8 {
        match self {
            StartError::Exec { status, .. } => *status,
            _ => 1,
        }
    }
}

/// A container that was created.
///
/// It isn't bound to this value's life: dropping it leaves the container running, or waiting
/// to be started, which it then can't be any more, so it ends.
#[derive(Debug)]
pub struct Container {
    pub(super) init: Identity,
    /// `None` if it has ended and another process has reaped it.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) start: Start,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) terminal: Option<OwnedFd>,
}

/// How the init is told to go on.
#[derive(Debug)]
pub(super) enum Start {
    /// By the process that created it, or by who comes to the gate.
    Channel(Channel, Option<Gate>),
    /// By any that can enter this directory.
    Gate(PathBuf),
    /// It has been told.
    Done,
}

impl Container {
    /// What another process needs to take hold of this container.
    pub fn handle(&self) -> Handle {
        Handle {
            init: self.init,
            cgroup: self.cgroup.clone(),
        }
    }

    /// Takes hold of a container that another process created. `gate` is the directory in
    /// which [`Gate::make`] made its gate.
    ///
    /// # Errors
    ///
    /// What `pidfd_open` gives. That the container has ended is no error.
    pub fn attach(handle: Handle, gate: &Path) -> io::Result<Container> {
        Ok(Container {
            init: handle.init,
            pidfd: handle.init.open()?,
            start: Start::Gate(gate.to_owned()),
            cgroup: handle.cgroup,
            terminal: None,
        })
    }

    /// The first process's pid, as this process sees it. Its end is for its parent to wait
    /// for: the process that created the container, or what adopted it since.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.init.pid)
    }

    /// A pidfd of the first process: readable once it has ended. `None` if it had ended and
    /// was reaped when this was attached to it.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The container's cgroup, if it has one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// The master of the workload's terminal, if it has one (`process.terminal`) that wasn't
    /// sent to a console socket. What the workload writes is to be read from it, and the
    /// terminal hangs up when it is closed.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Runs the `startContainer` hooks, lets the workload go, and waits for its exec. The
    /// `poststart` hooks are for the caller to run then ([`hooks::run`](super::hooks::run)).
    ///
    /// # Errors
    ///
    /// As [`StartError`] tells. The container is still there then, to be destroyed.
    pub fn start(&mut self) -> Result<(), StartError> {
        let channel = match std::mem::replace(&mut self.start, Start::Done) {
            Start::Channel(channel, _) => channel,
            Start::Gate(directory) => Gate::enter(&directory)
                .map_err(StartError::Init)?
                .ok_or(StartError::AlreadyStarted)?,
            Start::Done => return Err(StartError::AlreadyStarted),
        };
        channel.release().map_err(StartError::Init)?;
        let mut bound = EXEC_BOUND;
        loop {
            let heard = match self.pidfd() {
                Some(process) => channel.wait_for_report_of(process, bound),
                None => channel.wait_for_report_and_fd(bound),
            };
            match heard.map(|heard| heard.map(|(report, _)| report)) {
                // The exec closed the other end. Or the init was killed: its exit status tells.
                Ok(None) => return Ok(()),
                Ok(Some(Report::Hooks(seconds))) => bound = with_hooks(EXEC_BOUND, seconds),
                Ok(Some(Report::Failed(failure))) => {
                    return Err(StartError::Exec {
                        message: failure.message,
                        status: failure.status,
                    });
                }
                Ok(Some(_)) => {
                    return Err(StartError::Init(io::ErrorKind::InvalidData.into()));
                }
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    return Err(StartError::TimedOut(bound.as_secs()));
                }
                Err(error) => return Err(StartError::Init(error)),
            }
        }
    }

    /// Lets a container that has a gate wait there for its start, even when this process is
    /// gone. Until then it ends with this process.
    ///
    /// # Errors
    ///
    /// What telling the init gives, which has ended then.
    pub fn let_go(&self) -> io::Result<()> {
        match &self.start {
            Start::Channel(channel, Some(gate)) => channel.release_with(gate),
            Start::Channel(channel, None) => channel.release(),
            Start::Gate(_) | Start::Done => Ok(()),
        }
    }

    /// Sends a signal to the first process.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended, `EINVAL` for what is no signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let pidfd = self.pidfd().ok_or(nix::errno::Errno::ESRCH)?;
        sys::pidfd_send_signal(pidfd, signal)
    }

    /// Whether a process of the container was killed because of its memory limit.
    pub fn oom_killed(&self) -> bool {
        let kills = self.cgroup.as_ref().map(Cgroup::oom_kills);
        matches!(kills, Some(Ok(kills)) if kills > 0)
    }

    /// Kills what is left of the container, reaps its first process if that is a child of this
    /// process that wasn't reaped, and removes its cgroup.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Busy`] if processes are left after 10 s, or what else kept the cgroup
    /// from being removed.
    pub fn destroy(self) -> Result<(), CgroupError> {
        // Takes all of its pid namespace with it; removing the cgroup takes what has none.
        // That it has ended already is fine.
        let _ = self.signal(libc::SIGKILL);
        let _ = self.wait_for_exit();
        match self.cgroup {
            Some(cgroup) => cgroup.remove(),
            None => Ok(()),
        }
    }

    /// Waits for the first process to end, and reaps it, as [`child::reap`].
    pub(super) fn wait_for_exit(&self) -> io::Result<WaitStatus> {
        child::reap(
            self.pidfd().ok_or(nix::errno::Errno::ECHILD)?,
            child::EXIT_BOUND,
        )
    }
}
