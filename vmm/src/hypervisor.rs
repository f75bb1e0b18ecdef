//! What can run a machine: KVM or a QEMU.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where QEMU is looked for unless another place is named.
pub const DEFAULT_PATH: &str = "/usr/bin/qemu-system-x86_64";

/// The oldest QEMU that has everything a machine needs.
pub const OLDEST: Version = Version { major: 7, minor: 2 };

/// What runs a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hypervisor {
    /// The host's KVM, and this process as its monitor.
    Kvm,
    /// QEMU, which emulates the processor: a jailed child of this process. Devices stay here
    /// and reach it over vhost-user.
    Qemu(Qemu),
}

/// A QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    path: PathBuf,
}

impl Qemu {
    /// Uses the QEMU at `path`, usually [`DEFAULT_PATH`]. Whether it is suitable is found out by
    /// [`check`](Self::check), or when a machine starts.
    pub fn at(path: impl Into<PathBuf>) -> Qemu {
        Qemu { path: path.into() }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
