//! How a container is created, besides what its configuration says.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::gate::Gate;
use crate::container::cgroups::Manager;
use crate::container::process::stdio::Stdio;

/// How a container is created, besides what its configuration says.
#[derive(Debug)]
pub struct Options<'a> {
    /// Names its cgroup where `linux.cgroupsPath` doesn't, so it must be valid as a file name.
    pub id: &'a str,
    /// Its bundle's directory, which hooks are told.
    pub bundle: &'a Path,
    /// The standard streams of a workload without a terminal.
    pub stdio: Stdio,
    /// Where it waits for its start once it is [let go](Container::let_go), if another process is
    /// to start it.
    pub gate: Option<Gate>,
    /// Where the master of the workload's terminal is sent, as runc does it: a connected UNIX
    /// stream socket, which gets one message with the descriptor. Without it the master stays here
    /// ([`Container::take_terminal`]).
    pub console_socket: Option<OwnedFd>,
    /// How many descriptors from 3 up the workload gets besides its standard streams. They must be
    /// open, and not close-on-exec: those that the caller itself was started with.
    pub preserve_fds: u32,
    /// What makes its cgroup.
    pub cgroup_manager: Manager<'a>,
    /// Enter the container's root by moving its mount and by chroot, for where pivot_root is
    /// impossible: on a root file system that is the kernel's initramfs.
    pub no_pivot: bool,
    /// Leave the workload in the caller's session keyring instead of giving it its own.
    pub no_new_keyring: bool,
}

impl<'a> Options<'a> {
    /// Returns the options with only what is required.
    pub fn new(id: &'a str, bundle: &'a Path, stdio: Stdio) -> Self {
        Options {
            id,
            bundle,
            stdio,
            gate: None,
            console_socket: None,
            preserve_fds: 0,
            cgroup_manager: Manager::Files,
            no_pivot: false,
            no_new_keyring: false,
        }
    }
}
