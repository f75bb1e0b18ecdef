//! A cgroup, opened to put a process into it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A cgroup, opened to put a process into it.
#[derive(Debug)]
pub struct Placement {
    pub(crate) v2: Option<OwnedFd>,
    /// The `tasks` file of each v1 hierarchy.
    pub(crate) v1: Vec<File>,
}

impl Placement {
    /// Returns the directory for `clone3` with `CLONE_INTO_CGROUP`, if there is a cgroup2.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling process, which must have a single thread, into those cgroups that a clone
    /// can't put it in: version 1's. To be called in the new process, before anything else.
    ///
    /// A thread that moves itself avoids the lock that moving another process takes, which waits
    /// for all CPUs.
    ///
    /// # Errors
    ///
    /// The kernel's: `EINVAL` for a process of a realtime policy where the cgroup has no share of
    /// that, `ENOMEM`.
    pub fn enter(&self) -> io::Result<()> {
        self.v1
            .iter()
            .try_for_each(|mut tasks| tasks.write_all(b"0"))
    }
}
