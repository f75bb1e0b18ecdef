//! The workload's standard streams.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::{SFlag, fstat, makedev};
use nix::unistd::{Uid, fchown};

/// The workload's standard streams.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

impl Stdio {
    /// Duplicates those of the calling process.
    ///
    /// # Errors
    ///
    /// The errors of duplicating them.
    pub fn inherit() -> io::Result<Self> {
        Ok(Stdio {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }

    /// Makes `user` their owner, where that takes rights that the workload's process won't have.
    pub(crate) fn give_to(&self, user: Uid) {
        for fd in [&self.stdin, &self.stdout, &self.stderr] {
            give(fd.as_fd(), user);
        }
    }

    /// Makes them this process's descriptors 0 to 2.
    pub(crate) fn install(&self) -> nix::Result<()> {
        install([&self.stdin, &self.stdout, &self.stderr])
    }
}

/// Makes these this process's descriptors 0 to 2.
pub(crate) fn install(streams: [&OwnedFd; 3]) -> nix::Result<()> {
    // First copied above 2 if one of them has the number of another's place.
    if streams.iter().any(|fd| fd.as_raw_fd() < 3) {
        let copy = |fd: &OwnedFd| {
            let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
            // SAFETY: fcntl just made this descriptor, and nothing else knows of it.
            Ok::<_, Errno>(unsafe { OwnedFd::from_raw_fd(copy) })
        };
        let [stdin, stdout, stderr] = streams;
        return install([&copy(stdin)?, &copy(stdout)?, &copy(stderr)?]);
    }
    for (place, fd) in streams.iter().enumerate() {
        // SAFETY: dup2 touches no memory. It closes one of the standard streams, which nothing in
        // this process owns.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), place as RawFd) })?;
    }
    Ok(())
}

/// Makes `user` the owner of descriptors 0 to 2, so that it can open `/dev/stdout` and the like,
/// which reopens the file behind it. `/dev/null`, which all share, stays as it is, and so does a
/// file that is only read: someone may have redirected it from anywhere. What can't be changed
/// stays too, since the streams themselves still work.
pub(crate) fn give_to(user: Uid) {
    for fd in 0..=2 {
        // SAFETY: the standard streams are open, and stay so.
        give(unsafe { BorrowedFd::borrow_raw(fd) }, user);
    }
}

fn give(fd: BorrowedFd<'_>, user: Uid) {
    let Ok(status) = fstat(fd) else { return };
    let kind = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits());
    let null = kind == SFlag::S_IFCHR && status.st_rdev == makedev(1, 3);
    let only_read = || {
        let flags = fcntl(fd, FcntlArg::F_GETFL).unwrap_or(0);
        flags & libc::O_ACCMODE == libc::O_RDONLY
    };
    let stays = null || (kind == SFlag::S_IFREG && only_read());
    if status.st_uid != user.as_raw() && !stays {
        let _ = fchown(fd, Some(user), None);
    }
}
