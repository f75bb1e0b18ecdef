//! A child of this process.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::time::{Duration, Instant};

use crate::wait::poll_for;

/// How often to check whether it has stopped.
const STOP_INTERVAL: Duration = Duration::from_millis(1);

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Killed(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(status) => write!(f, "exited with status {status}"),
            Ended::Killed(libc::SIGKILL) => f.write_str("was killed by SIGKILL"),
            Ended::Killed(libc::SIGSEGV) => f.write_str("was killed by SIGSEGV"),
            Ended::Killed(libc::SIGSYS) => {
                f.write_str("was killed by its system call filter (SIGSYS)")
            }
            Ended::Killed(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// A child, by a descriptor that never refers to another process. Readable once it has
/// ended.
#[derive(Debug)]
pub(crate) struct Child {
    pidfd: OwnedFd,
    pid: u32,
}

impl Child {
    /// Wraps the pidfd of a child of this process.
    pub(crate) fn new(pidfd: OwnedFd, pid: u32) -> Child {
        Child { pidfd, pid }
    }

    /// Returns its pid, which may be another process's once it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it has ended, at most for `limit`; returns whether it has.
    pub(crate) fn has_ended_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut polled = poll_for(self.as_raw_fd(), libc::POLLIN);
            let milliseconds = left.as_millis().min(i32::MAX as u128) as i32;
            // SAFETY: one `pollfd` is passed, as the count says.
            match unsafe { libc::poll(&mut polled, 1, milliseconds) } {
                1.. => return true,
                0 if left.is_zero() || milliseconds == 0 => return false,
                _ => {}
            }
        }
    }

    /// Kills it, if it hasn't ended.
    pub(crate) fn kill(&self) {
        // Nothing else can go wrong.
        let _ = self.signal(libc::SIGKILL);
    }

    /// Stops it (SIGSTOP), and waits until it has stopped or ended, at most for `limit`; returns
    /// whether it has.
    pub(crate) fn stop(&self, limit: Duration) -> io::Result<bool> {
        self.signal(libc::SIGSTOP)?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            // SAFETY: siginfo_t is plain data, for which zeros are valid, and the call fills it in.
            // It reaps nothing.
            let (found, pid) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let id = self.pidfd.as_raw_fd() as libc::id_t;
                let how = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
                let found = libc::waitid(libc::P_PIDFD, id, &mut info, how);
                (found, info.si_pid())
            };
            match found {
                0 if pid != 0 => return Ok(true),
                0 => std::thread::sleep(STOP_INTERVAL),
                _ => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    // Somebody has reaped it.
                    error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(true),
                    error => return Err(error),
                },
            }
        }
        Ok(false)
    }

    /// Sends it a signal, if it hasn't ended.
    pub(crate) fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        // SAFETY: the call may be passed a null siginfo.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match sent {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                // Somebody has reaped it.
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Returns how it ended, once it has.
    pub(crate) fn reap(&self) -> io::Result<Ended> {
        // SAFETY: siginfo_t is plain data, for which zeros are valid, and the call fills it in;
        // its fields are those of SIGCHLD.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let id = self.pidfd.as_raw_fd() as libc::id_t;
            while libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED) < 0 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            Ok(match info.si_code {
                libc::CLD_EXITED => Ended::Exited(info.si_status()),
                _ => Ended::Killed(info.si_status()),
            })
        }
    }
}

/// Does the work that a forked child is there for, and ends with it: nothing of its parent may run in
/// it, no frame and no exit handler.
pub(crate) fn live(work: impl FnOnce()) -> ! {
    let lived = catch_unwind(AssertUnwindSafe(work));
    exit(lived.is_err().into())
}

/// Ends this process without running any more of it.
pub(crate) fn exit(status: libc::c_int) -> ! {
    // SAFETY: the call takes a number.
    unsafe { libc::_exit(status) }
}

/// Opens a descriptor of the process that has this pid.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointers; the descriptor is new, and nobody else's.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd as RawFd)),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Child {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}
