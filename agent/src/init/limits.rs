//! Lifts limits that show on a small machine where a host's don't, and gives the agent precedence
//! over the workloads.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};

/// Open files: systemd's limits for services, where the kernel's hard limit is 4096.
const NOFILE_SOFT: u64 = 1024;
const NOFILE_HARD: u64 = 512 << 10;

/// The highest limit on open files that the kernel allows a process at all.
const MOST_FILES: &str = "1073741816";

/// Gives workloads the limits they would have on a host with more memory.
pub(super) fn raise() -> io::Result<()> {
    // By default the kernel refuses a mapping larger than all memory, which is the container's
    // limit and little more. On a host such a limit takes effect when memory is used, not before.
    fs::write("/proc/sys/vm/overcommit_memory", "1")?;
    // A process gets the limits it would have on the host, where this may be as large.
    fs::write("/proc/sys/fs/nr_open", MOST_FILES)?;
    setrlimit(Resource::RLIMIT_NOFILE, NOFILE_SOFT, NOFILE_HARD)?;
    Ok(())
}

/// Has the kernel run the agent before any workload, so that it answers the host however busy the
/// guest is. Containers compete with it as wholes, through their cgroups. A real-time workload
/// comes before it, but must leave a twentieth to processes like this one.
///
/// What the agent starts begins with the default priority.
pub(super) fn take_precedence() -> io::Result<()> {
    const HIGHEST: libc::c_int = -20;
    // As in `linux/sched.h`; not all C libraries have it.
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
