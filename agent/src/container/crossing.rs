//! How a process gets into a pid namespace that others are in already.
//!
//! Whoever is in there may trace it, given the capability, from the moment that it has a pid in
//! there: its root, its descriptors, its memory and its rights are theirs then. So everything is
//! done before that, in a process outside. What it has become by then, filter included, it makes
//! a copy of inside, and ends. The copy has nothing left to do but what only the process itself
//! can, which is to lead a session, and to exec.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::child::{Child, reap};
use super::passage::Passage;
use super::sys;

/// How long the process outside may take to end once it has made the one inside.
const BOUND: Duration = Duration::from_secs(10);

/// One page, which the kernel writes the new process's pid to: behind its filter the process
/// outside may not be able to say it. The new one doesn't have this page.
pub(super) struct Crossing {
    page: *mut AtomicI32,
}

/// On which side one is after having crossed.
pub(super) enum Side {
    Outside,
    Inside,
}

impl Crossing {
    /// The engine: before it makes the process outside.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a new mapping, wherever there is room for it.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<AtomicI32>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Crossing { page: page.cast() })
    }

    /// The process outside: before it goes below its filter.
    pub(super) fn prepare(&self) -> io::Result<()> {
        // SAFETY: the mapping is this value's; the copy never looks at it.
        let result = unsafe {
            libc::madvise(
                self.page.cast(),
                size_of::<AtomicI32>(),
                libc::MADV_DONTFORK,
            )
        };
        Ok(Errno::result(result).map(drop)?)
    }

    /// The process outside: makes the one inside.
    ///
    /// # Safety
    ///
    /// As with [`sys::clone3`].
    pub(super) unsafe fn cross(&self, passage: &Passage) -> io::Result<Side> {
        // SAFETY: the caller's promise; the mapping is this value's.
        match unsafe { passage.clone_sister(self.page.cast()) }? {
            true => Ok(Side::Inside),
            false => Ok(Side::Outside),
        }
    }

    /// The engine: waits for the end of the process outside. Returns the one inside, in its
    /// place; `None` if it has made none.
    pub(super) fn wait(&self, outside: Child) -> io::Result<Option<Child>> {
        let Child { pidfd, channel, .. } = outside;
        if let Err(error) = reap(pidfd.as_fd(), BOUND) {
            // A filter that asks somebody may hold it up: it has nothing to do any more.
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            reap(pidfd.as_fd(), BOUND).map_err(|_| error)?;
        }
        // SAFETY: the mapping is this value's, and the kernel has written it in one go.
        let pid = unsafe { (*self.page).load(Ordering::Acquire) };
        if pid == 0 {
            return Ok(None);
        }
        let pidfd = sys::pidfd_open(pid)?;
        // Who it is said by isn't trusted with whose it is.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::PIDFd(pidfd.as_fd()), flags)?;
        Ok(Some(Child {
            pid: Pid::from_raw(pid),
            pidfd,
            channel,
        }))
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nothing points to it any more.
        unsafe { libc::munmap(self.page.cast(), size_of::<AtomicI32>()) };
    }
}
