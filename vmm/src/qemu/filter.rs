//! The system calls that QEMU may make: an allow list, applied before QEMU's own filter.
//!
//! QEMU's own filter removes what its authors know to be dangerous, and leaves the kernel's other
//! calls. This list was made from what QEMU 7.2 (Debian 12) was seen to do when it emulates one of
//! our machines, and from what QEMU 10 and newer C libraries do in the same places. It applies from
//! before QEMU's first instruction, so it includes what QEMU's loader does.

use std::io;
use std::os::fd::RawFd;

use libc::{c_long, sock_filter};

use crate::bpf::{Lists, NEWEST, THREADS, With};

const ALLOWED: &[c_long] = &[
    // The most frequent calls come first: the list is searched from the start.
    libc::SYS_futex,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_poll,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    // Descriptors. Everything in its root is read-only.
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    // Sockets: those of the devices.
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Memory. Translated code is executed.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_membarrier,
    // Threads, and their end.
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_arch_prctl,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals. It sees no process but itself; abort(3) sends itself one.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // After it was stopped and continues.
    libc::SYS_restart_syscall,
    // Time, where the vDSO can't provide it.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    // Questions about itself and the host.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_getrlimit,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Its own filter, which can only take more away.
    libc::SYS_seccomp,
];

/// Calls that it tries but can do without.
const MISSING: &[c_long] = &[
    // Without this, it waits with epoll.
    libc::SYS_io_uring_setup,
    // Its flags can't be inspected; the C library falls back to clone.
    libc::SYS_clone3,
    // The NUMA library checks whether there is any NUMA.
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    libc::SYS_mbind,
];

const UNIX: &[u32] = &[libc::AF_UNIX as u32];

const WITH: &[With<'_>] = &[
    With {
        call: libc::SYS_clone,
        argument: 0,
        values: &THREADS,
    },
    With {
        call: libc::SYS_socket,
        argument: 0,
        values: UNIX,
    },
    With {
        call: libc::SYS_socketpair,
        argument: 0,
        values: UNIX,
    },
    With {
        call: libc::SYS_prctl,
        argument: 0,
        values: &[
            libc::PR_SET_NO_NEW_PRIVS as u32,
            libc::PR_GET_NO_NEW_PRIVS as u32,
            libc::PR_SET_SECCOMP as u32,
            libc::PR_GET_SECCOMP as u32,
            libc::PR_SET_NAME as u32,
            libc::PR_GET_NAME as u32,
            libc::PR_SET_TIMERSLACK as u32,
            libc::PR_MCE_KILL as u32,
            libc::PR_CAPBSET_READ as u32,
            // Naming memory.
            libc::PR_SET_VMA as u32,
        ],
    },
    With {
        call: libc::SYS_fcntl,
        argument: 1,
        values: &[
            libc::F_DUPFD as u32,
            libc::F_DUPFD_CLOEXEC as u32,
            libc::F_GETFD as u32,
            libc::F_SETFD as u32,
            libc::F_GETFL as u32,
            libc::F_SETFL as u32,
            libc::F_GETLK as u32,
            libc::F_SETLK as u32,
            libc::F_OFD_GETLK as u32,
            libc::F_OFD_SETLK as u32,
            libc::F_ADD_SEALS as u32,
            libc::F_GET_SEALS as u32,
        ],
    },
    With {
        call: libc::SYS_ioctl,
        argument: 1,
        // Whether a stream is a terminal, and how much can be read from it.
        values: &[
            libc::TCGETS as u32,
            libc::TCSETS as u32,
            libc::TCSETSW as u32,
            libc::TCSETSF as u32,
            libc::TCGETS2 as u32,
            libc::TIOCGWINSZ as u32,
            libc::FIONREAD as u32,
            libc::FIONBIO as u32,
        ],
    },
];

/// Builds the filter for a QEMU whose binary is executed through the descriptor `binary`. QEMU's
/// own filter removes that call, too.
///
/// # Errors
///
/// None, as the lists aren't too long.
pub(super) fn program(binary: RawFd) -> io::Result<Vec<sock_filter>> {
    let binary = [binary as u32];
    let mut with = vec![With {
        call: libc::SYS_execveat,
        argument: 0,
        values: &binary,
    }];
    with.extend(WITH.iter().map(|with| With { ..*with }));
    Lists {
        allowed: ALLOWED,
        with: &with,
        missing: MISSING,
        newest: NEWEST,
    }
    .program()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::testing;

    fn attempt(call: c_long, arguments: [c_long; 4]) -> Result<i32, i32> {
        testing::attempt(&program(3).unwrap(), call, arguments)
    }

    #[test]
    fn what_a_taken_over_qemu_would_like_ends_it() {
        let stream = libc::SOCK_STREAM.into();
        let with = |family: libc::c_int| (libc::SYS_socket, [family.into(), stream, 0, 0]);
        for (call, arguments) in [
            (libc::SYS_bpf, [0; 4]),
            (libc::SYS_userfaultfd, [0; 4]),
            (libc::SYS_ptrace, [0; 4]),
            (libc::SYS_process_vm_readv, [0; 4]),
            (libc::SYS_keyctl, [1, 0, 0, 0]),
            (libc::SYS_add_key, [0; 4]),
            (libc::SYS_request_key, [0; 4]),
            (libc::SYS_perf_event_open, [0; 4]),
            (libc::SYS_io_uring_enter, [-1, 0, 0, 0]),
            (libc::SYS_fork, [0; 4]),
            (libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
            (libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]),
            (libc::SYS_execve, [0; 4]),
            (libc::SYS_execveat, [4, 0, 0, 0]),
            (libc::SYS_kill, [1, 0, 0, 0]),
            (libc::SYS_setuid, [0; 4]),
            (libc::SYS_mount, [0; 4]),
            (libc::SYS_ioctl, [0, 0x5412, 0, 0]),
            with(libc::AF_INET),
            with(libc::AF_NETLINK),
            with(libc::AF_PACKET),
            with(libc::AF_VSOCK),
        ] {
            let end = attempt(call, arguments);
            assert_eq!(end, Err(libc::SIGSYS), "{call} {arguments:?}");
        }
    }

    #[test]
    fn what_it_does_without_is_missing() {
        for call in [libc::SYS_io_uring_setup, libc::SYS_clone3, NEWEST + 1] {
            assert_eq!(attempt(call, [0; 4]), Ok(libc::ENOSYS), "{call}");
        }
    }

    #[test]
    fn what_it_needs_is_there() {
        let unix = [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, 0];
        assert_eq!(attempt(libc::SYS_socket, unix), Ok(0));
        let flags = [0, libc::F_GETFL.into(), 0, 0];
        assert_eq!(attempt(libc::SYS_fcntl, flags), Ok(0));
        // The one program that it may execute, which doesn't exist.
        assert_eq!(attempt(libc::SYS_execveat, [3, 0, 0, 0]), Ok(libc::EFAULT));
    }
}
