//! Why a configuration can't be given to a guest.

use std::{io, path::PathBuf};

use nacre_agent::container::cgroups::CgroupError;

use super::{
    devices::NoSuchDevice, file_systems::NotServed, hooks::GuestHookError,
    security_modules::SecurityModuleError, source_error::SourceError,
};

/// Why a configuration can't be given to a guest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestSpecError {
    #[error("root.path: {path}")]
    Root {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("root.path: {0} is not a directory")]
    RootIsNoDirectory(PathBuf),
    #[error(
        "root.path: {path} is in a file system of the type {kind}, which a VM isn't given; copy \
         the root to another"
    )]
    RootIsNotServed { path: PathBuf, kind: NotServed },
    #[error("root is missing")]
    NoRoot,
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Hook(#[from] GuestHookError),
    #[error(transparent)]
    Device(#[from] NoSuchDevice),
    #[error(transparent)]
    SecurityModule(#[from] SecurityModuleError),
    #[error(
        "linux.seccomp.listenerPath: a listener on the host is of no use to a VM, whose filters' \
         descriptors and processes' memory are the guest's"
    )]
    Listener,
    #[error(
        "linux.netDevices: the devices are the host's, and a VM's guest, another kernel, can't be \
         given them"
    )]
    NetDevices,
    #[error("can't read this process's limits")]
    Rlimits(#[source] io::Error),
    #[error(
        "linux.memoryPolicy: a VM's guest has a single memory node, and nothing to choose from"
    )]
    MemoryPolicy,
    #[error("linux.namespaces: a VM can't join the {kind} namespace {path}")]
    NamespacePath { kind: String, path: PathBuf },
    #[error(
        "linux.namespaces: there is no network namespace, and a VM can't use the host's network; \
         add {{\"type\": \"network\"}}"
    )]
    HostNetwork,
    #[error(
        "linux.resources.blockIO.{0}: the devices are the host's, which a VM's guest doesn't have"
    )]
    BlockDevice(&'static str),
    /// A limit that the guest, which has only cgroup v2, can't honour.
    #[error("{0} (a VM's guest has cgroup v2 alone, whatever the host has)")]
    Resources(#[source] CgroupError),
}
