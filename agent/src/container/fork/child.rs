//! Processes that run the engine's own program: a container's init, a process that is started in a
//! container, and the stage that brings either into a user namespace that has others in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::channel::{Channel, Failure, Report};
use crate::container::cgroups::Placement;
use crate::container::error::{InitError, Step};
use crate::container::kernel::cpus;
use crate::container::kernel::sys::{self, Cloned};
use crate::container::kernel::wait::wait_until_readable;

/// How long a stage may take. It only enters namespaces.
const STAGE_BOUND: Duration = Duration::from_secs(10);

/// How long a killed process may take to end.
pub(crate) const EXIT_BOUND: Duration = Duration::from_secs(10);

/// A child process of the engine.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// The engine's end of the channel to it.
    pub(crate) channel: Channel,
}

/// Makes a child process in the new namespaces of `flags` and in the cgroup of `placement`. It runs
/// `child`, and exits with the status that this returns.
///
/// # Safety
///
/// As with [`sys::clone3`]: this process must have a single thread.
pub(crate) unsafe fn spawn(
    flags: u64,
    placement: Option<&Placement>,
    child: impl FnOnce(Channel) -> i32,
) -> io::Result<Child> {
    let (engines_end, childs_end) = Channel::pair()?;
    // SAFETY: the caller's promise.
    match unsafe { sys::clone3(flags, placement.and_then(Placement::clone_into)) }? {
        Cloned::Parent { pid, pidfd } => Ok(Child {
            pid,
            pidfd,
            channel: engines_end,
        }),
        Cloned::Child => {
            // No code of the engine's, neither its callers' frames nor its exit handlers, may run
            // in this process.
            let _never_unwind = ExitOnDrop;
            // Otherwise this process would never notice that the engine is gone.
            drop(engines_end);
            let entered = placement.map_or(Ok(()), Placement::enter);
            cpus::run_anywhere();
            exit(match entered.step(|| "enter the container's cgroup") {
                Ok(()) => child(childs_end),
                Err(error) => childs_end.give_up(&error.into()),
            })
        }
    }
}

/// Why a child process couldn't be made.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// The kernel's reason.
    Kernel(io::Error),
    /// The stage gave up.
    Stage(Failure),
}

/// As [`spawn`], for a child that has to be made in an existing user namespace, or after entering
/// namespaces that its own new user namespace would have no rights to.
///
/// An intermediate process, the stage, runs `stage`. Then it makes the child, as a child of this
/// process. The child must wait to be released before it does anything else.
///
/// # Safety
///
/// As with [`spawn`].
pub(crate) unsafe fn spawn_through_stage<T>(
    flags: u64,
    placement: Option<&Placement>,
    data: &mut T,
    stage: impl FnOnce(&T) -> Result<(), InitError>,
    child: impl FnOnce(&mut T, Channel) -> i32,
) -> Result<Child, SpawnError> {
    // SAFETY: the caller's promise.
    let spawned = unsafe {
        spawn(0, placement, |channel| {
            if let Err(error) = stage(data) {
                return channel.give_up(&error);
            }
            // SAFETY: the stage is a fork, so it has a single thread.
            match sys::clone3(flags | libc::CLONE_PARENT as u64, None) {
                Ok(Cloned::Child) => child(data, channel),
                Ok(Cloned::Parent { pid, .. }) => {
                    let pid = pid.as_raw();
                    channel.report(&Report::Cloned { pid }).map_or(1, |()| 0)
                }
                Err(error) => {
                    let error = Err::<(), _>(error).step(|| "clone from the stage");
                    error.map_or_else(|error| channel.give_up(&error.into()), |()| 1)
                }
            }
        })
    };
    let stage = spawned.map_err(SpawnError::Kernel)?;
    let heard = stage.channel.wait_for_report(STAGE_BOUND);
    if !matches!(heard, Ok(Some(Report::Cloned { .. }))) {
        // It may be stuck.
        stage.kill();
    }
    let _ = reap(stage.pidfd.as_fd(), EXIT_BOUND);
    match heard.map_err(SpawnError::Kernel)? {
        Some(Report::Cloned { pid }) => Ok(Child {
            pid: Pid::from_raw(pid),
            // It is a child of this process, so its pid stays valid until it is reaped.
            pidfd: sys::pidfd_open(pid).map_err(SpawnError::Kernel)?,
            channel: stage.channel,
        }),
        Some(Report::Failed(failure)) => Err(SpawnError::Stage(failure)),
        _ => {
            let error = io::Error::other("the stage ended without a word");
            Err(SpawnError::Kernel(error))
        }
    }
}

impl Child {
    fn kill(&self) {
        // It is fine if it has ended already.
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Kills and reaps it.
    pub(crate) fn end(self) {
        self.kill();
        let _ = reap(self.pidfd.as_fd(), EXIT_BOUND);
    }
}

/// Waits for a child process to end, and reaps it.
///
/// # Errors
///
/// [`io::ErrorKind::TimedOut`] after `bound`; `ECHILD` if it was reaped before, or is
/// another process's child.
pub(crate) fn reap(pidfd: BorrowedFd<'_>, bound: Duration) -> io::Result<WaitStatus> {
    if !wait_until_readable(pidfd, bound)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    Ok(waitid(Id::PIDFd(pidfd), flags)?)
}

/// Ends the process on a panic.
struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit(1)
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: _exit ends the process without running any more of its code.
    unsafe { libc::_exit(status) }
}
