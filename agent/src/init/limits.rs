//! Limits of a small machine that would show where a host's don't.

use std::fs;
use std::io;

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
