//! How a process gets into a pid namespace that others are in already.
//!
//! As soon as a process has a pid in there, whoever is in there may trace it, given the capability:
//! its root, descriptors, memory and rights are theirs then. So everything is done before that, in
//! a process outside. That one makes a copy of itself inside, with all that it has become, filter
//! included, and ends. The copy only does what nobody can do for it: lead a session, and exec.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::child::{Child, reap};
use super::passage::Passage;
use crate::container::kernel::sys;

/// How long the process outside may take to end once it has made the one inside.
const BOUND: Duration = Duration::from_secs(10);

/// One page, to which the kernel writes the new process's pid: under its filter the process outside
/// may be unable to report it. The new process doesn't have this page.
pub(crate) struct Crossing {
    page: *mut AtomicI32,
}

/// The side that a process is on after the crossing.
pub(crate) enum Side {
    Outside,
    Inside,
}

impl Crossing {
    /// The engine: creates the page, before it makes the process outside.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a new mapping, at an address of the kernel's choice.
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

    /// The process outside: keeps the page from its copy, before it loads its filter.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        // SAFETY: the mapping is this value's; the copy never accesses it.
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
    pub(crate) unsafe fn cross(&self, passage: &Passage) -> io::Result<Side> {
        // SAFETY: the caller's promise; the mapping is this value's.
        if unsafe { passage.clone_sister(self.page.cast()) }? {
            Ok(Side::Inside)
        } else {
            Ok(Side::Outside)
        }
    }

    /// The engine: waits for the process outside to end. Returns the one inside in its place;
    /// `None` if none was made.
    pub(crate) fn wait(&self, outside: Child) -> io::Result<Option<Child>> {
        let Child { pidfd, channel, .. } = outside;
        if let Err(error) = reap(pidfd.as_fd(), BOUND) {
            // A filter that notifies a listener may hold it up. It has nothing left to do.
            let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            reap(pidfd.as_fd(), BOUND).map_err(|_| error)?;
        }
        // SAFETY: the mapping is this value's, and the kernel wrote the pid in one access.
        let pid = unsafe { (*self.page).load(Ordering::Acquire) };
        if pid == 0 {
            return Ok(None);
        }
        let pidfd = sys::pidfd_open(pid)?;
        // Checks that it is a child of this process: whoever reported the pid isn't trusted.
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
