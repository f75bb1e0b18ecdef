//! Kernel calls that neither nix nor rustix offers.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sched::CloneFlags;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::Pid;

/// As in `linux/sched.h`; libc's own constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// In which of the two processes a [`clone3`] returned.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller, with the new process's pid and pidfd.
    Parent {
        /// The new process's pid.
        pid: Pid,
        /// Its pidfd, which stays its own when the pid is reused.
        pidfd: OwnedFd,
    },
}

/// Makes a child process that is a copy of this one, in the new namespaces of `flags` and in
/// `cgroup` ([clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html)).
///
/// # Safety
///
/// As with `fork`: unless this process has a single thread, the child may call only what is
/// safe in a signal handler until it execs, which excludes allocating memory.
pub(crate) unsafe fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zeroes is a valid value of this struct of integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    // With CLONE_PARENT, the child gets the exit signal of the process that makes it.
    if flags & libc::CLONE_PARENT as u64 == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = &cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given, without CLONE_VM or a stack, so
    // that the child runs on a copy of this stack; `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: Pid::from_raw(pid as libc::pid_t),
            // SAFETY: with CLONE_PIDFD the kernel stored a new descriptor there.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Closes every descriptor from `first` up, except `kept`.
///
/// # Safety
///
/// Whatever owns one of them must be neither used nor dropped any more.
pub(crate) unsafe fn close_all_but(kept: BorrowedFd<'_>, first: u32) -> io::Result<()> {
    let kept = kept.as_raw_fd() as u32;
    for (first, last) in [
        (first, kept.saturating_sub(1)),
        (first.max(kept + 1), u32::MAX),
    ] {
        // SAFETY: close_range touches no memory; the rest is the caller's promise.
        if first <= last && unsafe { libc::close_range(first, last, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets the mode of a file that may be open only with `O_PATH`.
pub(crate) fn set_mode(file: impl AsFd, mode: Mode) -> nix::Result<()> {
    let file = file.as_fd().as_raw_fd();
    // SAFETY: the path is a C string.
    let set = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
            file,
            c"".as_ptr(),
            mode.bits(),
            libc::AT_EMPTY_PATH,
        )
    };
    match Errno::result(set) {
        // Linux before 6.6.
        Err(Errno::ENOSYS) => {
            let path = format!("/proc/self/fd/{file}");
            fchmodat(AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)
        }
        other => other.map(drop),
    }
}

/// Returns the first of the `count` descriptors from 3 up that this process wouldn't pass on
/// through an exec.
pub(crate) fn first_not_inherited(count: u32) -> Option<u32> {
    (3..3u32.saturating_add(count)).find(|fd| {
        let Ok(fd) = i32::try_from(*fd) else {
            return true;
        };
        // SAFETY: F_GETFD touches no memory, and changes nothing.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        flags == -1 || flags & libc::FD_CLOEXEC != 0
    })
}

/// Opens a pidfd of the process that has this pid now.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match pidfd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the descriptor was just made, and nothing else knows of it.
        pidfd => Ok(unsafe { OwnedFd::from_raw_fd(pidfd as i32) }),
    }
}

/// Enters the namespaces of `kinds` (`CLONE_NEW*`) of the process of `pidfd`.
pub(crate) fn setns_of_process(pidfd: BorrowedFd<'_>, kinds: CloneFlags) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    match unsafe { libc::setns(pidfd.as_raw_fd(), kinds.bits()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends `signal` to the process of `pidfd`.
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed, and means the one that kill would send.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the NIS domain name of this UTS namespace.
pub(crate) fn setdomainname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are of one string.
    match unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
