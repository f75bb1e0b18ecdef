//! Sets `process.scheduler`
//! ([sched_setattr(2)](https://man7.org/linux/man-pages/man2/sched_setattr.2.html)).

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::container::config::scheduler::SchedulerAttributes;

/// Sets the scheduler of a process; 0 is this one.
pub(crate) fn set(attributes: &SchedulerAttributes, pid: Pid) -> nix::Result<()> {
    let (pid, attributes) = (pid.as_raw(), std::ptr::from_ref(attributes));
    // SAFETY: `attributes` is a sched_attr of the size that it says.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, attributes, 0) };
    Errno::result(result).map(drop)
}
