//! The CPUs that a process runs on
//! ([sched_setaffinity(2)](https://man7.org/linux/man-pages/man2/sched_setaffinity.2.html)).

use nix::errno::Errno;

/// The highest number of CPUs that any kernel supports (`NR_CPUS`).
const MOST: usize = 8192;

/// A bit for each CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cpus(pub(crate) Vec<u64>);

/// Lets the calling thread and its future children run on every CPU that its cgroup allows, now or
/// after it enters another: the CPUs that the caller may run on don't concern the container. Linux
/// resets the mask by itself only before 6.2, and only in a cgroup with a cpuset.
///
/// A thread that can't be moved, such as one of `SCHED_DEADLINE`, stays where it is.
pub fn run_anywhere() {
    let _ = Cpus::all().set();
}

impl Cpus {
    /// Returns more CPUs than any kernel has.
    fn all() -> Self {
        Cpus(vec![u64::MAX; MOST / 64])
    }

    /// Returns the CPUs that this process may run on now.
    pub(crate) fn current() -> nix::Result<Self> {
        let mut cpus = Cpus(vec![0; MOST / 64]);
        // SAFETY: the pointer and the size in bytes are of one buffer.
        let result = unsafe {
            let size = size_of_val(cpus.0.as_slice());
            libc::syscall(libc::SYS_sched_getaffinity, 0, size, cpus.0.as_mut_ptr())
        };
        Errno::result(result)?;
        Ok(cpus)
    }

    /// Restricts this process to these CPUs, as far as its cgroup has them.
    pub(crate) fn set(&self) -> nix::Result<()> {
        // SAFETY: the pointer and the size in bytes are of one buffer.
        let result = unsafe {
            let size = size_of_val(self.0.as_slice());
            libc::syscall(libc::SYS_sched_setaffinity, 0, size, self.0.as_ptr())
        };
        Errno::result(result).map(drop)
    }
}
