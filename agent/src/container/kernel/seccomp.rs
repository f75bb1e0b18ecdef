//! The flags of seccomp filters that the kernel has, and the call that loads a filter
//! ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)).

use std::io;

use libc::{
    SECCOMP_FILTER_FLAG_LOG, SECCOMP_FILTER_FLAG_NEW_LISTENER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
};
use oci_spec::runtime::LinuxSeccompFilterFlag;

/// As in `linux/seccomp.h`.
const SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;

/// Whether the running kernel knows a flag.
pub fn has(flag: LinuxSeccompFilterFlag) -> bool {
    // Without a program the call always fails, but for an unknown flag it fails first.
    let flags = kernel_flag(flag)
        | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                SECCOMP_FILTER_FLAG_NEW_LISTENER
            }
            _ => 0,
        };
    seccomp(flags, std::ptr::null());
    io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

pub(crate) fn seccomp(flags: libc::c_ulong, program: *const libc::sock_fprog) -> libc::c_long {
    // SAFETY: the kernel copies the program and its instructions, or fails if it can't.
    unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            program,
        )
    }
}

pub(crate) fn kernel_flag(flag: LinuxSeccompFilterFlag) -> libc::c_ulong {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
        }
        // Whoever loads a filter here has no other threads to synchronize.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
    }
}
