//! Drops what the sandbox process inherits from nacre's caller and has no use for
//! (docs/inherited.md).

use std::io;

use nacre_agent::container::run_anywhere;
use nix::sys::stat::{Mode, umask};

use crate::isolation::vm::stand_in;

/// The umask for what the sandbox process creates, such as the directory that it jails QEMU in.
const UMASK: Mode = Mode::from_bits_truncate(0o022);

/// Forgets the caller's open files, its CPUs and its umask, before another thread or process exists
/// that would inherit them.
pub(super) fn forget() -> io::Result<()> {
    run_anywhere();
    umask(UMASK);
    stand_in::close_inherited()
}
