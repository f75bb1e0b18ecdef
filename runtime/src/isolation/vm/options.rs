//! How a container in a VM is to be made, besides what its bundle says.

use std::path::PathBuf;

use crate::{config::hypervisor::HypervisorChoice, isolation::told::Told};

/// How far a command takes a container, and what it does afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunMode {
    /// It is created; another command starts it.
    Create,
    /// It is started, and left alone.
    Detached,
    /// It is started and waited for. Then nothing is left of it, unless it is to be kept.
    InForeground { keep: bool },
}

impl RunMode {
    /// Whether the record outlives the container.
    pub(super) fn keeps(self) -> bool {
        self != Self::InForeground { keep: false }
    }
}

/// How to make a container, besides what its bundle says.
#[derive(Debug)]
pub(crate) struct VmOptions {
    pub(crate) mode: RunMode,
    /// Who is to be told of the container's stand-in.
    pub(crate) told: Told,
    /// Where its terminal's master is sent.
    pub(crate) console_socket: Option<PathBuf>,
    /// How many more of the caller's descriptors it should get, which isn't possible.
    pub(crate) preserve_fds: u32,
    /// Leave the container in its guest's session keyring instead of one of its own.
    pub(crate) no_new_keyring: bool,
    /// Have the guest kernel log what it does.
    pub(crate) debug: bool,
    /// What asks for a hypervisor.
    pub(crate) hypervisor: HypervisorChoice,
    /// Whether systemd makes the sandbox process's cgroup.
    pub(crate) systemd_cgroup: bool,
}
