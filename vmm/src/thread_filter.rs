//! The system calls that the monitor's threads may make once the machine has been made.
//!
//! Each list was made from what the code of such a thread does, and from what the C library does
//! below it. A call on none of them ends the process, and with it the machine.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_long;

use crate::bpf::{self, Lists, NEWEST, With};

/// What every thread does.
const COMMON: &[c_long] = &[
    libc::SYS_futex,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    // Images, and what descriptors are.
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_close,
    // Connections: those of the guest's vsock, and of QEMU's devices.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_accept4,
    // Entropy, and the hasher's keys.
    libc::SYS_getrandom,
    // Limits on rates.
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // Memory. None of it is ever made executable.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Time, where the vDSO can't provide it.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    // Signals, among them those that make a vCPU come out of the guest.
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // The thread itself, and its end.
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What else threads do that begin or end other threads, a device, or the machine: the first one,
/// those of vCPUs, whose guests set devices up and reset them, and those that speak with QEMU.
const BEGINNINGS: &[c_long] = &[
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_timerfd_create,
    libc::SYS_dup,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_getaffinity,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_rt_sigaction,
    libc::SYS_getrlimit,
    libc::SYS_prlimit64,
    // Ends QEMU, and pauses it.
    libc::SYS_pidfd_send_signal,
    libc::SYS_waitid,
    // A thread puts itself under a narrower filter, which can only take more away.
    libc::SYS_seccomp,
];

/// Calls that are tried and done without.
const MISSING: &[c_long] = &[
    // Their flags can't be inspected; the C library falls back to clone.
    libc::SYS_clone3,
    // There is no file to be opened: the C library asks how many processors there are, and a panic
    // for its own program.
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_getcwd,
    // Reads the kernel's log, which the monitor's parent may do.
    libc::SYS_syslog,
];

/// The protections of memory that is written to or read, and of a stack's guard.
const PROTECTIONS: &[u32] = &[
    libc::PROT_NONE as u32,
    libc::PROT_READ as u32,
    (libc::PROT_READ | libc::PROT_WRITE) as u32,
];

/// Makes room in the sockets of connections that end, for what their readers haven't read; and limits
/// how long the file server may take for an answer.
const SOCKET_OPTIONS: [u32; 4] = [
    libc::SO_SNDBUF as u32,
    libc::SO_SNDBUFFORCE as u32,
    libc::SO_RCVTIMEO as u32,
    libc::SO_SNDTIMEO as u32,
];

/// How many of them are about room.
const ROOM: usize = 2;

/// Tells a tap what its reader can do with packets, and attaches and detaches queues of it.
const TAP: [u32; 2] = [libc::TUNSETOFFLOAD as u32, libc::TUNSETQUEUE as u32];
/// From linux/kvm.h: runs a vCPU, tells its guest that it was paused, and connects devices.
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
const KVM_IRQFD: u32 = 0x4020_ae76;
const KVM_IOEVENTFD: u32 = 0x4040_ae79;

/// Whether this process is confined, so that threads narrow their filters.
static IS_CONFINED: AtomicBool = AtomicBool::new(false);

/// The filter of a kind of the monitor's threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThreadFilter {
    /// Those that begin others; and all threads, before they are more than that.
    Any,
    /// Those that work on a device's queues.
    Device,
}

impl ThreadFilter {
    /// Confines this process, which has one thread yet.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no filters.
    pub(crate) fn confine_process() -> io::Result<()> {
        ThreadFilter::Any.install()?;
        IS_CONFINED.store(true, Ordering::Release);
        Ok(())
    }

    /// Puts the calling thread under its filter, in a process that is confined.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no memory.
    pub(crate) fn narrow(self) -> io::Result<()> {
        if IS_CONFINED.load(Ordering::Acquire) {
            self.install()?;
        }
        Ok(())
    }

    fn install(self) -> io::Result<()> {
        match bpf::install(&self.program()?) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn program(self) -> io::Result<Vec<libc::sock_filter>> {
        let with = |call, argument, values| With {
            call,
            argument,
            values,
        };
        let mut allowed = COMMON.to_vec();
        let mut lists = vec![
            with(
                libc::SYS_ioctl,
                1,
                match self {
                    ThreadFilter::Any => &[
                        KVM_RUN,
                        KVM_IRQFD,
                        KVM_IOEVENTFD,
                        KVM_KVMCLOCK_CTRL,
                        TAP[0],
                        TAP[1],
                        libc::FIONBIO as u32,
                    ][..],
                    ThreadFilter::Device => &TAP[..],
                },
            ),
            with(
                libc::SYS_setsockopt,
                2,
                match self {
                    ThreadFilter::Any => &SOCKET_OPTIONS[..],
                    ThreadFilter::Device => &SOCKET_OPTIONS[..ROOM],
                },
            ),
            with(libc::SYS_mmap, 2, PROTECTIONS),
            with(libc::SYS_mprotect, 2, PROTECTIONS),
            with(
                libc::SYS_fcntl,
                1,
                &[
                    libc::F_GETFD as u32,
                    libc::F_GETFL as u32,
                    libc::F_SETFL as u32,
                    libc::F_DUPFD_CLOEXEC as u32,
                ],
            ),
        ];
        if self == ThreadFilter::Any {
            allowed.extend(BEGINNINGS);
            lists.push(with(libc::SYS_clone, 0, &bpf::THREADS));
            lists.push(with(
                libc::SYS_prctl,
                0,
                &[
                    libc::PR_SET_NAME as u32,
                    libc::PR_SET_NO_NEW_PRIVS as u32,
                    libc::PR_CAPBSET_READ as u32,
                    libc::PR_SET_VMA as u32,
                ],
            ));
        }
        Lists {
            allowed: &allowed,
            with: &lists,
            missing: MISSING,
            newest: NEWEST,
        }
        .program()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::testing;

    const BOTH: [ThreadFilter; 2] = [ThreadFilter::Any, ThreadFilter::Device];

    fn attempt(filter: ThreadFilter, call: c_long, arguments: [c_long; 4]) -> Result<i32, i32> {
        testing::attempt(&filter.program().unwrap(), call, arguments)
    }

    #[test]
    fn what_a_guest_that_took_it_over_would_like_ends_it() {
        let stream = libc::SOCK_STREAM.into();
        let socket = |family: libc::c_int| (libc::SYS_socket, [family.into(), stream, 0, 0]);
        let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
        for (call, arguments) in [
            (libc::SYS_bpf, [0; 4]),
            (libc::SYS_userfaultfd, [0; 4]),
            (libc::SYS_ptrace, [0; 4]),
            (libc::SYS_process_vm_readv, [0; 4]),
            (libc::SYS_keyctl, [1, 0, 0, 0]),
            (libc::SYS_add_key, [0; 4]),
            (libc::SYS_perf_event_open, [0; 4]),
            (libc::SYS_io_uring_setup, [0; 4]),
            (libc::SYS_io_uring_enter, [-1, 0, 0, 0]),
            (libc::SYS_fork, [0; 4]),
            (libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
            (libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]),
            (libc::SYS_setns, [0; 4]),
            (libc::SYS_execve, [0; 4]),
            (libc::SYS_execveat, [0; 4]),
            (libc::SYS_kill, [1, 0, 0, 0]),
            (libc::SYS_pidfd_open, [1, 0, 0, 0]),
            (libc::SYS_pidfd_getfd, [0; 4]),
            (libc::SYS_setuid, [0; 4]),
            (libc::SYS_mount, [0; 4]),
            (libc::SYS_open_tree, [0; 4]),
            (libc::SYS_openat2, [0; 4]),
            (libc::SYS_open_by_handle_at, [0; 4]),
            (libc::SYS_mmap, [0, 4096, executable, 0]),
            (libc::SYS_mprotect, [0, 4096, executable, 0]),
            (libc::SYS_memfd_create, [0; 4]),
            (libc::SYS_ioctl, [0, libc::TIOCSTI as c_long, 0, 0]),
            socket(libc::AF_UNIX),
            socket(libc::AF_INET),
            socket(libc::AF_NETLINK),
            socket(libc::AF_VSOCK),
        ] {
            for filter in BOTH {
                let end = attempt(filter, call, arguments);
                assert_eq!(end, Err(libc::SIGSYS), "{filter:?}: {call} {arguments:?}");
            }
        }
    }

    #[test]
    fn files_and_clone3_are_missing() {
        for call in [libc::SYS_openat, libc::SYS_clone3, NEWEST + 1] {
            for filter in BOTH {
                assert_eq!(attempt(filter, call, [0; 4]), Ok(libc::ENOSYS), "{call}");
            }
        }
    }

    #[test]
    fn devices_do_less_than_those_that_begin_them() {
        let run = [-1, KVM_RUN.into(), 0, 0];
        let room = [-1, 0, libc::SO_SNDBUF.into(), 0];
        for filter in BOTH {
            assert_eq!(attempt(filter, libc::SYS_setsockopt, room), Ok(libc::EBADF));
        }
        let limit = [-1, 0, libc::SO_RCVTIMEO.into(), 0];
        for (call, arguments, error) in [
            (libc::SYS_setsockopt, limit, libc::EBADF),
            (libc::SYS_eventfd2, [0; 4], 0),
            (libc::SYS_ioctl, run, libc::EBADF),
            (libc::SYS_waitid, [-1; 4], libc::EFAULT),
        ] {
            assert_eq!(attempt(ThreadFilter::Any, call, arguments), Ok(error));
            let end = attempt(ThreadFilter::Device, call, arguments);
            assert_eq!(end, Err(libc::SIGSYS), "{call}");
        }
    }
}
