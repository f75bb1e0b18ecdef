//! Why a VM has no disk.

use std::{io, path::PathBuf};

/// The program that makes a disk's file system.
pub(in crate::isolation::vm) const MKE2FS: &str = "mke2fs";

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    #[error(
        "can't make a disk's image in {directory}; vm.disk-directory in the configuration file \
         names another directory"
    )]
    Image {
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't run {MKE2FS}, which a disk takes; it is in Debian's package e2fsprogs")]
    Missing(#[source] io::Error),
    #[error("{MKE2FS}, which makes a disk's file system, failed: {0}")]
    Failed(String),
    #[error("can't make the disk's device")]
    Device(#[source] io::Error),
}
