//! Keeps a scope open until a container is in it.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::container::fork::channel::Channel;
use crate::container::fork::child;
use crate::container::kernel::wait::wait_until_readable;

/// How long the process that keeps a scope open may take to end when it is released.
const HOLDER_BOUND: Duration = Duration::from_secs(10);

/// A process that only keeps a scope open until the container is in it: systemd makes no scope
/// without a process, and ends one that is empty.
#[derive(Debug)]
pub(crate) struct Holder {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    /// The process ends when this is closed, however this process ends.
    channel: Option<Channel>,
}

impl Holder {
    /// Makes the process.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn start() -> std::io::Result<Self> {
        // SAFETY: the caller's promise.
        let child = unsafe {
            child::spawn(0, None, |channel| {
                let _ = channel.wait_for_release();
                0
            })
        }?;
        Ok(Holder {
            pid: child.pid.as_raw(),
            pidfd: child.pidfd,
            channel: Some(child.channel),
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.channel.take());
        let pidfd = self.pidfd.as_fd();
        if matches!(wait_until_readable(pidfd, HOLDER_BOUND), Ok(true)) {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            let _ = waitid(Id::PIDFd(pidfd), flags);
        }
    }
}
