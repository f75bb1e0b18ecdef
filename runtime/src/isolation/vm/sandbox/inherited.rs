//! Drops what the sandbox process inherits from nacre's caller and has no use for
//! (docs/inherited.md).

use std::io;

use nacre_agent::container::run_anywhere;
use nix::sys::stat::{Mode, umask};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::isolation::vm::stand_in;

/// The umask for what the sandbox process creates, such as the directory that it jails QEMU in.
const UMASK: Mode = Mode::from_bits_truncate(0o022);

/// Forgets the caller's open files, its CPUs, its umask and what it could have of the host's memory,
/// before another thread or process exists that would inherit them.
pub(super) fn forget() -> io::Result<()> {
    run_anywhere();
    umask(UMASK);
    // What a core dump would show is the guest's; nothing here is locked in memory.
    for resource in [Resource::Core, Resource::Memlock] {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(resource, none)?;
    }
    stand_in::close_inherited()
}
