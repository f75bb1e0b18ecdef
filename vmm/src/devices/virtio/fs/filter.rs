//! The system calls that a file server may make: an allow list for all of its threads, in force from
//! before a front end is heard.
//!
//! It was made from what virtiofsd's requests do, from what the threads of a device do, and from
//! what C libraries do in those places. The kernel's calls on files take descriptors and names below
//! the share; those that would lead anywhere else aren't here: new sockets, processes, threads and
//! mounts, file handles, other processes, `ioctl`, io_uring, and memory that can be executed.

use std::io;

use libc::{c_long, sock_filter};

use crate::bpf::{Lists, NEWEST, With};

const ALLOWED: &[c_long] = &[
    // The most frequent calls come first: the list is searched from the start. Events, and waits.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_futex,
    // Files' contents.
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_copy_file_range,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_flock,
    // Names and attributes.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_open,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_utimensat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchownat,
    libc::SYS_getxattr,
    libc::SYS_fgetxattr,
    libc::SYS_setxattr,
    libc::SYS_fsetxattr,
    libc::SYS_listxattr,
    libc::SYS_flistxattr,
    libc::SYS_removexattr,
    libc::SYS_fremovexattr,
    libc::SYS_fchdir,
    libc::SYS_umask,
    // A request's user, and that it can't do what root can. The rights are those that the thread
    // has; with `mount_setattr`, the main thread makes a directory read-only.
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_mount_setattr,
    // The sockets that there are.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Time, where the vDSO can't provide it.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    // Signals: faults, and abort(3), which sends the process one. Only itself is in its namespace.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // After it was stopped and continues.
    libc::SYS_restart_syscall,
    // Questions about itself.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_geteuid,
    libc::SYS_getegid,
    libc::SYS_getrlimit,
    libc::SYS_getcwd,
    libc::SYS_sched_getaffinity,
    // The end of a thread, and of all.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Nothing in memory is made executable.
const READ_OR_WRITTEN: &[u32] = &[
    libc::PROT_NONE as u32,
    libc::PROT_READ as u32,
    libc::PROT_WRITE as u32,
    (libc::PROT_READ | libc::PROT_WRITE) as u32,
];

const WITH: &[With<'_>] = &[
    With {
        call: libc::SYS_mmap,
        argument: 2,
        values: READ_OR_WRITTEN,
    },
    With {
        call: libc::SYS_mprotect,
        argument: 2,
        values: READ_OR_WRITTEN,
    },
    With {
        call: libc::SYS_fcntl,
        argument: 1,
        values: &[
            libc::F_DUPFD_CLOEXEC as u32,
            libc::F_GETFD as u32,
            libc::F_SETFD as u32,
            libc::F_GETFL as u32,
            libc::F_SETFL as u32,
            libc::F_GET_SEALS as u32,
        ],
    },
    With {
        call: libc::SYS_prctl,
        argument: 0,
        values: &[
            libc::PR_SET_NO_NEW_PRIVS as u32,
            libc::PR_CAPBSET_READ as u32,
            libc::PR_CAPBSET_DROP as u32,
            // Naming memory, and the threads that have just been made.
            libc::PR_SET_VMA as u32,
            libc::PR_SET_NAME as u32,
        ],
    },
    With {
        // How getrlimit(3) asks.
        call: libc::SYS_prlimit64,
        argument: 0,
        values: &[0],
    },
];

/// Builds the filter.
///
/// # Errors
///
/// None, as the lists aren't too long.
pub(super) fn program() -> io::Result<Vec<sock_filter>> {
    Lists {
        allowed: ALLOWED,
        with: WITH,
        missing: &[],
        newest: NEWEST,
    }
    .program()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::testing;

    fn attempt(call: c_long, arguments: [c_long; 4]) -> Result<i32, i32> {
        testing::attempt(&program().unwrap(), call, arguments)
    }

    #[test]
    fn what_leads_out_of_the_share_ends_it() {
        let executable = (libc::PROT_READ | libc::PROT_EXEC).into();
        for (call, arguments) in [
            (libc::SYS_socket, [libc::AF_UNIX.into(), 1, 0, 0]),
            (libc::SYS_socket, [libc::AF_INET.into(), 1, 0, 0]),
            (libc::SYS_connect, [0; 4]),
            (libc::SYS_fork, [0; 4]),
            (libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
            (libc::SYS_clone3, [0; 4]),
            (libc::SYS_execve, [0; 4]),
            (libc::SYS_execveat, [0; 4]),
            (libc::SYS_ptrace, [0; 4]),
            (libc::SYS_process_vm_readv, [0; 4]),
            (libc::SYS_pidfd_open, [1, 0, 0, 0]),
            (libc::SYS_kill, [1, 0, 0, 0]),
            (libc::SYS_setns, [0; 4]),
            (libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]),
            (libc::SYS_chroot, [0; 4]),
            (libc::SYS_pivot_root, [0; 4]),
            (libc::SYS_mount, [0; 4]),
            (libc::SYS_umount2, [0; 4]),
            (libc::SYS_open_tree, [0; 4]),
            (libc::SYS_move_mount, [0; 4]),
            (libc::SYS_fsopen, [0; 4]),
            (libc::SYS_open_by_handle_at, [0; 4]),
            (libc::SYS_name_to_handle_at, [0; 4]),
            (libc::SYS_bpf, [0; 4]),
            (libc::SYS_userfaultfd, [0; 4]),
            (libc::SYS_perf_event_open, [0; 4]),
            (libc::SYS_io_uring_setup, [0; 4]),
            (libc::SYS_keyctl, [1, 0, 0, 0]),
            (libc::SYS_add_key, [0; 4]),
            (libc::SYS_ioctl, [0, 0x5412, 0, 0]),
            (libc::SYS_setrlimit, [0; 4]),
            (libc::SYS_mmap, [0, 4096, executable, 0x22]),
            (libc::SYS_mprotect, [0, 4096, executable, 0]),
            (libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0]),
            (libc::SYS_fcntl, [0, libc::F_SETOWN.into(), 1, 0]),
        ] {
            let end = attempt(call, arguments);
            assert_eq!(end, Err(libc::SIGSYS), "{call} {arguments:?}");
        }
    }

    #[test]
    fn what_it_needs_is_there() {
        let nothing = [0, 0, libc::PROT_READ.into(), 0];
        assert_eq!(attempt(libc::SYS_mprotect, nothing), Ok(0));
        assert_eq!(attempt(libc::SYS_prlimit64, [0; 4]), Ok(0));
        // A C library tries these, and does without.
        assert_eq!(attempt(NEWEST + 1, [0; 4]), Ok(libc::ENOSYS));
    }
}
