//! Sets `process.ioPriority`
//! ([ioprio_set(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html)).

use nix::errno::Errno;

/// As in `linux/ioprio.h`.
const WHO_PROCESS: i32 = 1;

/// Sets the priority for this process: a class and a level, as the kernel takes them.
pub(crate) fn set(priority: i32) -> nix::Result<()> {
    // SAFETY: ioprio_set takes only integers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    Errno::result(result).map(drop)
}
