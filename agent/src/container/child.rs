//! Processes of the engine's own program: a container's init, one that is started in a
//! container, and the stage that brings them into a user namespace of others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::cgroups::Placement;
use super::channel::{Channel, Failure, Report, wait_until_readable};
use super::error::{InitError, Step};
use super::sys::{self, Cloned};

/// How long a stage may take, which only enters namespaces.
const STAGE_BOUND: Duration = Duration::from_secs(10);

/// How long a process that was killed may take to be gone.
pub(super) const EXIT_BOUND: Duration = Duration::from_secs(10);

/// A child process of the engine's.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// The line to it.
    pub(super) channel: Channel,
}

/// Makes a child process in the new namespaces of `flags` and in the cgroup of `placement`, which
/// does what `child` does, and ends with the status that this returns.
///
/// # Safety
///
/// As with [`sys::clone3`]: this process must have a single thread.
pub(super) unsafe fn spawn(
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
            // Nothing of the engine's, neither its callers' frames nor its exit handlers, may
            // run in this process.
            let _never_unwind = ExitOnDrop;
            // Or it would never be seen that the engine is gone.
            drop(engines_end);
            let entered = placement.map_or(Ok(()), Placement::enter);
            exit(match entered.step(|| "enter the container's cgroup") {
                Ok(()) => child(childs_end),
                Err(error) => childs_end.give_up(&error),
            })
        }
    }
}

/// Why there is no child process.
#[derive(Debug)]
pub(super) enum SpawnError {
    /// The kernel's reason.
    Kernel(io::Error),
    /// The stage gave up.
    Stage(Failure),
}

/// As [`spawn`], for a child that has to be made in a user namespace of others, or after
/// namespaces have been entered that one of its own would have no right to.
///
/// A process in between, the stage, does what `stage` does. Then it makes the child as one of
/// this process. The child must wait to be released before anything else.
///
/// # Safety
///
/// As with [`spawn`].
pub(super) unsafe fn spawn_through_stage<T>(
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
            // SAFETY: the stage has a single thread, being a fork.
            match sys::clone3(flags | libc::CLONE_PARENT as u64, None) {
                Ok(Cloned::Child) => child(data, channel),
                Ok(Cloned::Parent { pid, .. }) => {
                    let pid = pid.as_raw();
                    channel.report(&Report::Cloned { pid }).map_or(1, |()| 0)
                }
                Err(error) => {
                    let error = Err::<(), _>(error).step(|| "clone from the stage");
                    error.map_or_else(|error| channel.give_up(&error), |()| 1)
                }
            }
        })
    };
    let stage = spawned.map_err(SpawnError::Kernel)?;
    let heard = stage.channel.wait_for_report(STAGE_BOUND);
    if !matches!(heard, Ok(Some(Report::Cloned { .. }))) {
        // It may be stuck somewhere.
        stage.kill();
    }
    let _ = reap(stage.pidfd.as_fd(), EXIT_BOUND);
    match heard.map_err(SpawnError::Kernel)? {
        Some(Report::Cloned { pid }) => Ok(Child {
            pid: Pid::from_raw(pid),
            // It is a child of this process, so that it is there until it is reaped.
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
        // That it has ended already is fine.
        let _ = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
    }

    /// Kills and reaps it.
    pub(super) fn end(self) {
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
pub(super) fn reap(pidfd: BorrowedFd<'_>, bound: Duration) -> io::Result<WaitStatus> {
    if !wait_until_readable(pidfd, bound)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    Ok(waitid(Id::PIDFd(pidfd), flags)?)
}

/// Ends the process, if a panic should come by.
struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit(1)
    }
}

fn exit(status: i32) -> ! {
    // SAFETY: _exit ends the process without running anything of it.
    unsafe { libc::_exit(status) }
}
