//! What the sandbox process may still do as root once it has left the host: its main thread, and
//! the threads that it makes from then on.

use nacre_vmm::ThreadRights;

/// What the rest of the container's life takes, and nothing of it is executing a program:
///
/// - `CAP_DAC_OVERRIDE`: the container's cgroup and folder, whoever they were given to.
/// - `CAP_KILL`: the stand-in and the monitor, which have other users.
/// - `CAP_NET_ADMIN`, `CAP_NET_RAW`: taps, and what carries a network's changes and packets for any
///   group.
/// - `CAP_SYS_ADMIN`: the network's namespace, the cgroup's device filter, and unmounting.
/// - `CAP_SYS_RESOURCE`: limits that are raised by an update.
/// - `CAP_SYSLOG`: the kernel's log says for which system call a filter ended the monitor or QEMU.
///
/// So it can't trace another process of the host's, load a module, reach ports or the memory of the
/// machine, make a device or become another user.
pub(super) const AFTER_LEAVING: ThreadRights = ThreadRights::of(&[1, 5, 12, 13, 21, 24, 34]);
