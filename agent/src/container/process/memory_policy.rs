//! Sets `linux.memoryPolicy`: the NUMA nodes that the container's memory comes from
//! ([set_mempolicy(2)](https://man7.org/linux/man-pages/man2/set_mempolicy.2.html)).

use std::ptr;

use nix::errno::Errno;

use crate::container::config::memory_policy::MemoryPolicy;

/// Sets the policy for this process and its descendants.
pub(crate) fn set(policy: &MemoryPolicy) -> nix::Result<()> {
    let MemoryPolicy { mode, nodes } = policy;
    // The kernel reads one bit less than it is told, and takes no pointer to an empty mask.
    let (pointer, count) = match nodes.len() {
        0 => (ptr::null(), 0),
        words => (nodes.as_ptr(), words * 64 + 1),
    };
    // SAFETY: the pointer has as many bits behind it as the kernel reads, none if it is told of
    // none.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, *mode, pointer, count) };
    Errno::result(result).map(drop)
}
