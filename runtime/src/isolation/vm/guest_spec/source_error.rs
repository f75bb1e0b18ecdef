//! Why a guest can't be given what a container mounts.

use std::{io, path::PathBuf};

use nacre_agent::container::config::ConfigError;

use super::{devices::NoSuchDevice, file_systems::NotServed};

/// Why a guest can't be given the source of a bind mount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("mounts[{0}].source is missing")]
    Missing(usize),
    #[error("mounts[{index}].source: {path}")]
    NotThere {
        index: usize,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("mounts[{index}].source: {path} is a {kind}, which a VM can't share with the host")]
    Kind {
        index: usize,
        path: PathBuf,
        kind: &'static str,
    },
    #[error(
        "mounts[{index}].source: {path} is in a file system of the type {kind}, which a VM isn't \
         given; mount the guest's own, of the type proc, sysfs, cgroup, mqueue, ..."
    )]
    NotServed {
        index: usize,
        path: PathBuf,
        kind: NotServed,
    },
    #[error("mounts[{index}].options: an overlay has more directories than the kernel takes")]
    TooManyLayers { index: usize },
    #[error("mounts[{index}].options: {path}, a directory of an overlay")]
    LayerNotThere {
        index: usize,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "mounts[{index}].options: {path}, a directory of an overlay, is in a file system of the \
         type {kind}, which a VM isn't given"
    )]
    LayerNotServed {
        index: usize,
        path: PathBuf,
        kind: NotServed,
    },
    #[error(transparent)]
    Device(#[from] NoSuchDevice),
    #[error(transparent)]
    Options(#[from] ConfigError),
}
