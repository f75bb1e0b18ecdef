//! Processes of the engine's own program: a container's init, one that is started in a
//! container, and the stage that brings them into a user namespace of others.

use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::cgroups::Placement;
use super::channel::Channel;
use super::error::Step;
use super::sys::{self, Cloned};

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
