//! Decides what a container in a VM does with its root file system. This is the one place that
//! does.
//!
//! *RootKind*: the annotation `dev.nacre.vm.rootfs`; else `vm.rootfs` of the configuration file; else
//! `shared`: what the container writes to its root goes to the host's directory. With `overlay` the
//! host's directory is only read, and what the container writes is its own and ends with it.
//!
//! *Where that is kept*: on a disk, an image on the host, with the annotation
//! `dev.nacre.vm.rootfs.disk`, which is the disk's size; in the guest's memory with
//! `dev.nacre.vm.rootfs.memory`, which is the most that it takes; else as the configuration file's
//! `vm.rootfs-disk` or `vm.rootfs-memory` say; else in memory, up to half of the guest's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    annotations::Annotations,
    bytes::Bytes,
    file::VmSettings,
    keys::{ROOTFS_DISK, ROOTFS_MEMORY},
    root_kind::RootKind,
};

/// The smallest disk: a smaller file system has little room for anything but itself.
const MIN_DISK: u64 = 8 << 20;

/// The largest disk: with blocks of 4 KiB, the maximum of the guest's file system, less one
/// granule.
const MAX_DISK: u64 = (1 << 44) - DISK_GRANULE;

/// The unit of a disk's size.
const DISK_GRANULE: u64 = 1 << 20;

/// The least memory: one page for the root directory and one for something in it.
const MIN_UPPER: u64 = 64 << 10;

/// Where the images of disks are, unless the configuration file says otherwise: on a disk of the
/// host, where they have no names.
const DISKS: &str = "/var/tmp";

/// Where what a container writes over its root is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Upper {
    /// In the guest's memory.
    Memory {
        /// The most memory that it takes, in bytes.
        limit: u64,
    },
    /// On a disk.
    Disk {
        /// Its size in bytes, a multiple of 1 MiB.
        size: u64,
        /// The directory of its image.
        directory: PathBuf,
    },
}

/// Why a root can't be as requested.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RootfsError {
    #[error("{by}: the root is shared, and has no differences to keep; ask for an overlay too")]
    Shared { by: &'static str },
    #[error("{first} and {second}: the differences are kept in memory or on a disk, not in both")]
    Both {
        first: &'static str,
        second: &'static str,
    },
    #[error("{by}: a disk can't have {asked}, {least} to {most} can be had",
        least = Bytes(MIN_DISK), most = Bytes(MAX_DISK))]
    Disk { by: &'static str, asked: Bytes },
    #[error("{by}: {asked} of a guest's {memory} can't be kept for the root, {least} to all can",
        least = Bytes(MIN_UPPER))]
    Memory {
        by: &'static str,
        asked: Bytes,
        memory: Bytes,
    },
}

const BY_CONFIG_DISK: &str = "vm.rootfs-disk in the configuration file";
const BY_CONFIG_MEMORY: &str = "vm.rootfs-memory in the configuration file";

impl Upper {
    /// Decides where the container's writes to its root go, in a guest with that much memory, in
    /// bytes; `None` if they go to the host's directory.
    pub(crate) fn choose(
        annotations: &Annotations,
        config: &VmSettings,
        memory: u64,
    ) -> Result<Option<Self>, RootfsError> {
        let sizes = |disk, memory, by_disk, by_memory| match (disk, memory) {
            (Some(_), Some(_)) => Err(RootfsError::Both {
                first: by_disk,
                second: by_memory,
            }),
            (Some(size), None) => Ok(Some((true, size, by_disk))),
            (None, Some(limit)) => Ok(Some((false, limit, by_memory))),
            (None, None) => Ok(None),
        };
        let (disk, limit) = (annotations.rootfs_disk, annotations.rootfs_memory);
        let asked = sizes(disk, limit, ROOTFS_DISK, ROOTFS_MEMORY)?;
        let (disk, limit) = (config.rootfs_disk, config.rootfs_memory);
        let configured = sizes(disk, limit, BY_CONFIG_DISK, BY_CONFIG_MEMORY)?;
        let kind = annotations
            .rootfs
            .or(config.rootfs)
            .unwrap_or(RootKind::Shared);
        if kind == RootKind::Shared {
            // The configuration file's sizes are for the containers that have an overlay.
            return match asked {
                Some((_, _, by)) => Err(RootfsError::Shared { by }),
                None => Ok(None),
            };
        }
        let upper = match asked.or(configured) {
            None => Self::Memory { limit: memory / 2 },
            Some((true, Bytes(size), by)) => {
                if !(MIN_DISK..=MAX_DISK).contains(&size) {
                    let asked = Bytes(size);
                    return Err(RootfsError::Disk { by, asked });
                }
                Self::Disk {
                    size: size.next_multiple_of(DISK_GRANULE),
                    directory: config.disks(),
                }
            }
            Some((false, Bytes(limit), by)) => {
                if !(MIN_UPPER..=memory).contains(&limit) {
                    return Err(RootfsError::Memory {
                        by,
                        asked: Bytes(limit),
                        memory: Bytes(memory),
                    });
                }
                Self::Memory { limit }
            }
        };
        Ok(Some(upper))
    }
}

impl VmSettings {
    /// Returns where the images of disks are created.
    fn disks(&self) -> PathBuf {
        let configured = self.disk_directory.as_deref();
        configured.unwrap_or(DISKS.as_ref()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 256 << 20;

    fn choose(annotations: Annotations, config: &str) -> Result<Option<Upper>, String> {
        let config: VmSettings = toml::from_str(config).unwrap();
        Upper::choose(&annotations, &config, MEMORY).map_err(|error| error.to_string())
    }

    fn annotations(kind: Option<RootKind>, disk: Option<u64>, memory: Option<u64>) -> Annotations {
        Annotations {
            rootfs: kind,
            rootfs_disk: disk.map(Bytes),
            rootfs_memory: memory.map(Bytes),
            ..Annotations::default()
        }
    }

    #[test]
    fn roots_are_shared_unless_an_overlay_is_asked_for() {
        let none = Annotations::default;
        let overlay = || annotations(Some(RootKind::Overlay), None, None);
        let memory = |limit| Ok(Some(Upper::Memory { limit }));
        let disk = |size, directory: &str| {
            let directory = directory.into();
            Ok(Some(Upper::Disk { size, directory }))
        };
        assert_eq!(choose(none(), ""), Ok(None));
        assert_eq!(choose(none(), "rootfs-disk = \"1G\""), Ok(None));
        assert_eq!(choose(none(), "rootfs = \"overlay\""), memory(MEMORY / 2));
        let shared = annotations(Some(RootKind::Shared), None, None);
        assert_eq!(choose(shared, "rootfs = \"overlay\""), Ok(None));
        assert_eq!(choose(overlay(), ""), memory(MEMORY / 2));
        assert_eq!(choose(overlay(), "rootfs-memory = \"1M\""), memory(1 << 20));
        assert_eq!(
            choose(overlay(), "rootfs-disk = \"1G\"\ndisk-directory = \"/d\""),
            disk(1 << 30, "/d")
        );
        let nearer = annotations(Some(RootKind::Overlay), None, Some(2 << 20));
        assert_eq!(choose(nearer, "rootfs-disk = \"1G\""), memory(2 << 20));
        let nearer = annotations(Some(RootKind::Overlay), Some((9 << 20) + 1), None);
        assert_eq!(
            choose(nearer, "rootfs-memory = \"1M\""),
            disk(10 << 20, DISKS)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let overlay = Some(RootKind::Overlay);
        for (annotations, config, name) in [
            (annotations(None, Some(1 << 30), None), "", ROOTFS_DISK),
            (annotations(None, None, Some(1 << 20)), "", ROOTFS_MEMORY),
            (
                annotations(overlay, Some(1 << 30), Some(1 << 20)),
                "",
                ROOTFS_DISK,
            ),
            (annotations(overlay, Some(1 << 20), None), "", ROOTFS_DISK),
            (annotations(overlay, Some(1 << 44), None), "", ROOTFS_DISK),
            (annotations(overlay, None, Some(0)), "", ROOTFS_MEMORY),
            (
                annotations(overlay, None, Some(MEMORY + 1)),
                "",
                ROOTFS_MEMORY,
            ),
            (
                annotations(overlay, None, None),
                "rootfs-disk = \"1\"",
                "vm.rootfs-disk",
            ),
            (
                annotations(overlay, None, None),
                "rootfs-disk = \"1G\"\nrootfs-memory = \"1M\"",
                "vm.rootfs-memory",
            ),
        ] {
            let refused = choose(annotations, config).unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
