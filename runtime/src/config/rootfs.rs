//! What a VM's container does with its root file system. This is the one place that decides it.
//!
//! *Kind*: the annotation `dev.nacre.vm.rootfs`; else `vm.rootfs` of the configuration file; else
//! `shared`: what the container writes to its root, it writes to the host's directory. With
//! `overlay` the host's directory is only read, and what the container writes is its own and
//! ends with it.
//!
//! *Where that is kept*: on a disk, an image of the host's, with the annotation
//! `dev.nacre.vm.rootfs.disk`, which is the disk's size; in the guest's memory with
//! `dev.nacre.vm.rootfs.memory`, which is the most that it takes; else as the configuration
//! file's `vm.rootfs-disk` or `vm.rootfs-memory` say; else in memory, up to half of the guest's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Vm,
    annotations::{Annotations, ROOTFS_DISK, ROOTFS_MEMORY},
    size::Bytes,
};

/// The smallest disk: a file system of less has little room besides itself.
const MIN_DISK: u64 = 8 << 20;

/// The largest: the most that the guest's file system has room for with blocks of 4 KiB, but one.
const MAX_DISK: u64 = (1 << 44) - DISK_GRANULE;

/// What a disk's size is a multiple of.
const DISK_GRANULE: u64 = 1 << 20;

/// The least memory: a page for the root directory and one for something in it.
const MIN_UPPER: u64 = 64 << 10;

/// Where the images of disks are, unless the configuration file says otherwise: on a disk of the
/// host's, where they have no name.
const DISKS: &str = "/var/tmp";

/// What is done with a container's root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// It is the host's.
    Shared,
    /// It is the host's, read-only, below what the container writes.
    Overlay,
}

impl Kind {
    /// The kind of that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "shared" => Some(Self::Shared),
            "overlay" => Some(Self::Overlay),
            _ => None,
        }
    }
}

/// Where what a container writes over its root is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Upper {
    /// In the guest's memory.
    Memory {
        /// The most that it takes, in bytes.
        limit: u64,
    },
    /// On a disk.
    Disk {
        /// Bytes, a multiple of 1 MiB.
        size: u64,
        /// Where its image is.
        directory: PathBuf,
    },
}

/// Why a root can't be had as it is asked for.
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
    /// Where what the container writes to its root goes, in a guest with that much memory, in
    /// bytes; `None` if it goes to the host's directory.
    pub(crate) fn choose(
        annotations: &Annotations,
        config: &Vm,
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
        let kind = annotations.rootfs.or(config.rootfs).unwrap_or(Kind::Shared);
        if kind == Kind::Shared {
            // The configuration file's sizes are for those containers that have an overlay.
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

impl Vm {
    /// Where the images of disks are made.
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
        let config: Vm = toml::from_str(config).unwrap();
        Upper::choose(&annotations, &config, MEMORY).map_err(|error| error.to_string())
    }

    fn annotations(kind: Option<Kind>, disk: Option<u64>, memory: Option<u64>) -> Annotations {
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
        let overlay = || annotations(Some(Kind::Overlay), None, None);
        let memory = |limit| Ok(Some(Upper::Memory { limit }));
        let disk = |size, directory: &str| {
            let directory = directory.into();
            Ok(Some(Upper::Disk { size, directory }))
        };
        assert_eq!(choose(none(), ""), Ok(None));
        assert_eq!(choose(none(), "rootfs-disk = \"1G\""), Ok(None));
        assert_eq!(choose(none(), "rootfs = \"overlay\""), memory(MEMORY / 2));
        let shared = annotations(Some(Kind::Shared), None, None);
        assert_eq!(choose(shared, "rootfs = \"overlay\""), Ok(None));
        assert_eq!(choose(overlay(), ""), memory(MEMORY / 2));
        assert_eq!(choose(overlay(), "rootfs-memory = \"1M\""), memory(1 << 20));
        assert_eq!(
            choose(overlay(), "rootfs-disk = \"1G\"\ndisk-directory = \"/d\""),
            disk(1 << 30, "/d")
        );
        let nearer = annotations(Some(Kind::Overlay), None, Some(2 << 20));
        assert_eq!(choose(nearer, "rootfs-disk = \"1G\""), memory(2 << 20));
        let nearer = annotations(Some(Kind::Overlay), Some((9 << 20) + 1), None);
        assert_eq!(
            choose(nearer, "rootfs-memory = \"1M\""),
            disk(10 << 20, DISKS)
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let overlay = Some(Kind::Overlay);
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
