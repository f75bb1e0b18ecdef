//! Limits of a small machine that would show where a host's don't, and the agent's precedence
//! over the workloads.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

/// Open files: systemd's limits for services, where the kernel's hard one is 4096.
const NOFILE_SOFT: u64 = 1024;
const NOFILE_HARD: u64 = 512 << 10;

/// Lets workloads have what they would on a host of more memory.
pub(super) fn raise() -> io::Result<()> {
    // The kernel refuses a mapping that is larger than all memory, which is the container's
    // limit and little more. On a host such a limit acts when memory is used, not before.
    fs::write("/proc/sys/vm/overcommit_memory", "1")?;
    setrlimit(Resource::RLIMIT_NOFILE, NOFILE_SOFT, NOFILE_HARD)?;
    Ok(())
}

/// Has the kernel run the agent before any workload, so that it answers the host however busy the
/// guest is. Containers compete with it as wholes, by their cgroups. A real-time workload comes
/// before it, but is made to leave a twentieth to such as this.
///
/// What the agent starts begins with the usual priority.
pub(super) fn take_precedence() -> io::Result<()> {
    const HIGHEST: libc::c_int = -20;
    // As in `linux/sched.h`; not in all C libraries.
    const SCHED_RESET_ON_FORK: libc::c_int = 0x4000_0000;
    // SAFETY: it touches no memory.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, HIGHEST) })?;
    let policy = libc::SCHED_OTHER | SCHED_RESET_ON_FORK;
    let no_priority: libc::c_int = 0;
    // SAFETY: the kernel's `sched_param` is one number, which it reads.
    let set = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            policy,
            &raw const no_priority,
        )
    };
    Errno::result(set)?;
    Ok(())
}
