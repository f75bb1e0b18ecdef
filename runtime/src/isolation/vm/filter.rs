//! The system calls that the sandbox process's threads may make, from before the guest's first
//! instruction on: the agent's messages and the monitor's are a hostile guest's from then on.
//!
//! The lists were made from what the code of such threads does, and from what the libraries do below
//! it. Files are found below this process's root, and its rights are few by the time that anybody is
//! told of the container (`sandbox/rights.rs`); so what the lists are about is the rest of the kernel. A call
//! on none of them ends the process, and with it the machine.
//!
//! No thread may execute anything, trace or enter another process, load anything into the kernel,
//! have keys or another user, enter or make namespaces, map executable memory, or open files by
//! handles; and nothing is done by io_uring.

use std::io;

use libc::c_long;
use nacre_vmm::{
    ThreadRights,
    bpf::{Lists, NEWEST, THREADS, With},
};

/// What threads do that carry what a guest says.
const CARRYING: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_close,
    libc::SYS_shutdown,
    // A stream that nobody reads any more becomes /dev/null.
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    // Memory. None of it is ever made executable.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // Time, where the vDSO can't provide it.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    // Signals, which are blocked.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // The thread itself, and its end.
    libc::SYS_sched_yield,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What else the main thread does while it serves.
const SERVING: &[c_long] = &[
    // The record, the container's folder and cgroup, and taps.
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close_range,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chmod,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    // What is mounted on the container's folder, so that it can be removed.
    libc::SYS_umount2,
    // Commands, the guest, the monitor and its file server.
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_signalfd4,
    // Processes: their end, and signals to them.
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_waitid,
    libc::SYS_wait4,
    // Threads, their rights, and narrower filters.
    libc::SYS_set_tid_address,
    libc::SYS_sched_getaffinity,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_seccomp,
    // What this process is, and what the host is like.
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getppid,
    libc::SYS_getpgrp,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_clock_getres,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_umask,
];

/// What else it does until the container has been made: it shows that to its stand-in, and leaves the
/// host's file systems.
const BEGINNING: &[c_long] = &[
    // How libdbus waits for systemd.
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_mount,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_pivot_root,
    libc::SYS_mknodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
];

/// Calls that are tried and done without: their flags can't be inspected.
const MISSING: &[c_long] = &[libc::SYS_clone3];

/// The protections of memory that is written to or read, and of a stack's guard.
const PROTECTIONS: &[u32] = &[
    libc::PROT_NONE as u32,
    libc::PROT_READ as u32,
    (libc::PROT_READ | libc::PROT_WRITE) as u32,
];

/// The C library's fork(3): a process that shows that memory ran out (`sandbox/oom.rs`) executes nothing.
const FORK: u32 = (libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD) as u32;

/// The families of sockets: commands, and systemd until the host is left; networks, and what an
/// interface accepts.
const FAMILIES: &[u32] = &[
    libc::AF_UNIX as u32,
    libc::AF_NETLINK as u32,
    libc::AF_PACKET as u32,
];

/// Taps, terminals' sizes, and what the standard library asks of descriptors.
const REQUESTS: &[u32] = &[
    libc::TUNSETIFF as u32,
    libc::TUNSETVNETHDRSZ as u32,
    libc::TUNSETOFFLOAD as u32,
    libc::TUNSETQUEUE as u32,
    libc::TIOCGWINSZ as u32,
    libc::TCGETS as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
];

/// Names of threads and of memory, what becomes of rights and of a child.
const PROCESS_OPTIONS: &[u32] = &[
    libc::PR_SET_NAME as u32,
    libc::PR_SET_VMA as u32,
    libc::PR_SET_NO_NEW_PRIVS as u32,
    libc::PR_CAPBSET_READ as u32,
    libc::PR_CAPBSET_DROP as u32,
    libc::PR_SET_PDEATHSIG as u32,
];

/// syslog(2): read the end of the kernel's log, which says for which call a filter ended the monitor.
const READ_ALL: u32 = 3;

/// The filter of a kind of this process's threads. Each lets through what the next one does, and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// The main thread until the host is left.
    Beginning,
    /// The main thread from then on.
    Serving,
    /// Threads that carry what a guest says.
    Carrying,
}

impl Filter {
    /// Puts the calling thread, and those that it makes, under the filter. There is no way back.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has no filters.
    pub(super) fn install(self) -> io::Result<()> {
        let mut allowed = CARRYING.to_vec();
        if self != Self::Carrying {
            allowed.extend(SERVING);
        }
        if self == Self::Beginning {
            allowed.extend(BEGINNING);
        }
        let with = |call, argument, values| With {
            call,
            argument,
            values,
        };
        // How abort(3) sends its signal: to this process and to no other.
        let this_process = [std::process::id()];
        let mut lists = vec![
            with(libc::SYS_mmap, 2, PROTECTIONS),
            with(libc::SYS_mprotect, 2, PROTECTIONS),
            with(libc::SYS_tgkill, 0, &this_process),
        ];
        let clones = [THREADS[0], THREADS[1], FORK];
        if self != Self::Carrying {
            lists.extend([
                with(libc::SYS_clone, 0, &clones[..]),
                with(libc::SYS_socket, 0, FAMILIES),
                with(libc::SYS_ioctl, 1, REQUESTS),
                with(libc::SYS_prctl, 0, PROCESS_OPTIONS),
                with(libc::SYS_syslog, 0, &[READ_ALL]),
                // How getrlimit(3) asks.
                with(libc::SYS_prlimit64, 2, &[0]),
            ]);
        }
        Lists {
            allowed: &allowed,
            with: &lists,
            missing: MISSING,
            newest: NEWEST,
        }
        .install()
    }
}

/// Leaves the calling thread, which carries what a guest says, no rights and few system calls: what it
/// reads and writes is open.
///
/// # Errors
///
/// The kernel's.
pub(super) fn confine_carrier() -> io::Result<()> {
    ThreadRights::NONE.keep()?;
    Filter::Carrying.install()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Filter; 3] = [Filter::Beginning, Filter::Serving, Filter::Carrying];

    /// Makes a system call in a process under a filter. Returns how that process ended: by a signal,
    /// or with the call's error as its status.
    fn attempt(filter: Filter, call: c_long, arguments: [c_long; 3]) -> Result<i32, i32> {
        let [a, b, c] = arguments;
        // SAFETY: it is passed no pointer but such as the kernel refuses to read.
        under(filter, || unsafe { libc::syscall(call, a, b, c) })
    }

    /// Does the same of what makes a single call that the filter's lists are about.
    fn under(filter: Filter, makes_call: impl FnOnce() -> c_long) -> Result<i32, i32> {
        // SAFETY: glibc's allocator, and nothing else that needs other threads, is used in the child; the
        // parent waits for it.
        let status = unsafe {
            let pid = libc::fork();
            assert!(pid >= 0);
            if pid == 0 {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                if filter.install().is_err() {
                    libc::_exit(100);
                }
                let error = match makes_call() {
                    result if result < 0 => *libc::__errno_location(),
                    _ => 0,
                };
                libc::syscall(libc::SYS_exit_group, error);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            status
        };
        if libc::WIFSIGNALED(status) {
            return Err(libc::WTERMSIG(status));
        }
        Ok(libc::WEXITSTATUS(status))
    }

    #[test]
    fn what_a_guest_that_took_it_over_would_like_ends_it() {
        let stream = libc::SOCK_STREAM.into();
        let executable = c_long::from(libc::PROT_READ | libc::PROT_EXEC);
        for (call, arguments) in [
            (libc::SYS_execve, [0; 3]),
            (libc::SYS_execveat, [0; 3]),
            (libc::SYS_ptrace, [0; 3]),
            (libc::SYS_process_vm_writev, [0; 3]),
            (libc::SYS_tgkill, [1, 1, 0]),
            (libc::SYS_pidfd_getfd, [0; 3]),
            (libc::SYS_bpf, [0; 3]),
            (libc::SYS_perf_event_open, [0; 3]),
            (libc::SYS_userfaultfd, [0; 3]),
            (libc::SYS_io_uring_setup, [0; 3]),
            (libc::SYS_keyctl, [1, 0, 0]),
            (libc::SYS_init_module, [0; 3]),
            (libc::SYS_finit_module, [0; 3]),
            (libc::SYS_kexec_load, [0; 3]),
            (libc::SYS_reboot, [0; 3]),
            (libc::SYS_open_by_handle_at, [0; 3]),
            (libc::SYS_setns, [0; 3]),
            (libc::SYS_unshare, [0; 3]),
            (libc::SYS_chroot, [0; 3]),
            (libc::SYS_setuid, [0; 3]),
            (libc::SYS_setresuid, [0; 3]),
            (libc::SYS_setrlimit, [0; 3]),
            (libc::SYS_prlimit64, [0, 0, 4096]),
            (libc::SYS_clone, [libc::CLONE_NEWUSER.into(), 0, 0]),
            (libc::SYS_mmap, [0, 4096, executable]),
            (libc::SYS_mprotect, [0, 4096, executable]),
            (libc::SYS_ioctl, [0, libc::TIOCSTI as c_long, 0]),
            (libc::SYS_socket, [libc::AF_VSOCK.into(), stream, 0]),
            (libc::SYS_socket, [libc::AF_ALG.into(), stream, 0]),
        ] {
            for filter in ALL {
                let end = attempt(filter, call, arguments);
                assert_eq!(end, Err(libc::SIGSYS), "{filter:?}: {call} {arguments:?}");
            }
        }
    }

    #[test]
    fn each_lets_through_less_than_the_one_before() {
        let killed = Err(libc::SIGSYS);
        for (call, of_each) in [
            (libc::SYS_open_tree, [Ok(libc::EINVAL), killed, killed]),
            (
                libc::SYS_openat,
                [Ok(libc::EFAULT), Ok(libc::EFAULT), killed],
            ),
            (libc::SYS_shutdown, [Ok(libc::EBADF); 3]),
            (libc::SYS_clone3, [Ok(libc::ENOSYS); 3]),
        ] {
            for (filter, expected) in ALL.into_iter().zip(of_each) {
                let end = attempt(filter, call, [-1; 3]);
                assert_eq!(end, expected, "{filter:?}: {call}");
            }
        }
    }

    #[test]
    fn a_thread_can_signal_its_own_process() {
        for filter in ALL {
            // SAFETY: the call takes a number.
            let end = under(filter, || unsafe { libc::raise(0) }.into());
            assert_eq!(end, Ok(0), "{filter:?}");
        }
    }
}
