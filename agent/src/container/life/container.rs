//! Starts, signals and destroys a container that has been created.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::gate::Gate;
use crate::container::cgroups::{Cgroup, CgroupError};
use crate::container::fork::channel::{Channel, Report, with_hooks};
use crate::container::fork::child;
use crate::container::kernel::identity::Identity;
use crate::container::kernel::sys;

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

/// Why the workload of a created container wasn't started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It was started before.
    #[error("the container was started before")]
    AlreadyStarted,
    /// The init is gone, or can't be reached.
    #[error("can't reach the container's init")]
    Init(#[source] io::Error),
    /// The workload's program doesn't exist, which couldn't be seen before, or a hook failed. The
    /// init has ended.
    #[error("{message}")]
    Exec {
        /// The error message.
        message: String,
        /// What [`StartError::exit_status`] returns.
        status: u8,
    },
    /// The exec isn't done in time.
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
/// Its life isn't tied to this value: dropping that leaves the container running or, if it waits to
/// be started, ends it, since nobody can start it any more.
#[derive(Debug)]
pub struct Container {
    pub(crate) init: Identity,
    /// `None` if it has ended and another process has reaped it.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) start: Start,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// How the init is told to go on.
#[derive(Debug)]
pub(crate) enum Start {
    /// By the process that created it, or by the one that comes to the gate.
    Channel(Channel, Option<Gate>),
    /// By any process that can enter this directory.
    Gate(PathBuf),
    /// The init has been told.
    Done,
}

impl Container {
    /// Returns what another process needs to take hold of this container.
    pub fn handle(&self) -> Handle {
        Handle {
            init: self.init,
            cgroup: self.cgroup.clone(),
        }
    }

    /// Takes hold of a container that another process created. `gate` is the directory in which
    /// [`Gate::make`] made its gate.
    ///
    /// # Errors
    ///
    /// The errors of `pidfd_open`. It is no error if the container has ended.
    pub fn attach(handle: Handle, gate: &Path) -> io::Result<Container> {
        Ok(Container {
            init: handle.init,
            pidfd: handle.init.open()?,
            start: Start::Gate(gate.to_owned()),
            cgroup: handle.cgroup,
            terminal: None,
        })
    }

    /// Returns the first process's pid, as this process sees it. Its parent has to wait for its
    /// end: the process that created the container, or the one that has adopted it since.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.init.pid)
    }

    /// Returns a pidfd of the first process: readable once it has ended. `None` if it had ended and
    /// been reaped when this attached to it.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Returns the container's cgroup, if it has one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Returns the master of the workload's terminal, if it has one (`process.terminal`) that
    /// wasn't sent to a console socket. The caller has to read the workload's output from it, and
    /// the terminal hangs up when it is closed.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Runs the `startContainer` hooks, releases the workload, and waits for its exec. If the
    /// program exists but can't be executed after all, the process itself reports that on its
    /// standard error, and ends. The caller has to run the `poststart` hooks then
    /// ([`hooks::run`](super::hooks::run)).
    ///
    /// # Errors
    ///
    /// See [`StartError`]. The container still exists then, to be destroyed.
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
                // The exec closed the other end. Or it failed, or the init was killed: its exit
                // status tells which.
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

    /// Lets a container that has a gate wait there for its start, even when this process is gone.
    /// Until then it ends with this process.
    ///
    /// # Errors
    ///
    /// The errors of telling the init, which has ended then.
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
    /// `ESRCH` if it has ended, `EINVAL` for an invalid signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let pidfd = self.pidfd().ok_or(nix::errno::Errno::ESRCH)?;
        sys::pidfd_send_signal(pidfd, signal)
    }

    /// Whether a process of the container was killed because of its memory limit.
    pub fn oom_killed(&self) -> bool {
        let kills = self.cgroup.as_ref().map(Cgroup::oom_kills);
        matches!(kills, Some(Ok(kills)) if kills > 0)
    }

    /// Kills what is left of the container, reaps its first process if that is an unreaped child of
    /// this process, and removes its cgroup.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Busy`] if processes are left after 10 s, or what else kept the cgroup from
    /// being removed.
    pub fn destroy(self) -> Result<(), CgroupError> {
        // Kills all of its pid namespace too; without one, removing the cgroup kills the rest. It
        // is fine if it has ended already.
        let _ = self.signal(libc::SIGKILL);
        let _ = self.wait_for_exit();
        match self.cgroup {
            Some(cgroup) => cgroup.remove(),
            None => Ok(()),
        }
    }

    /// Waits for the first process to end, and reaps it, as [`child::reap`].
    pub(crate) fn wait_for_exit(&self) -> io::Result<WaitStatus> {
        child::reap(
            self.pidfd().ok_or(nix::errno::Errno::ECHILD)?,
            child::EXIT_BOUND,
        )
    }
}
