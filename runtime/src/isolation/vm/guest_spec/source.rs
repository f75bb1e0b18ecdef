//! What a guest gets through the share for one of its container's mounts.

use std::{fmt, path::PathBuf};

use nacre_agent::container::MountIds;

use super::overlay_source::Overlay;

/// The source of a bind mount.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::isolation::vm) struct Source {
    pub(in crate::isolation::vm) origin: Origin,
    pub(in crate::isolation::vm) is_directory: bool,
    /// Whether the mounts below it are included.
    pub(in crate::isolation::vm) recursive: bool,
    /// The options from which its mounts get their flags.
    pub(in crate::isolation::vm) options: Vec<String>,
    /// How the owners of its files are mapped. That is done on this side, so that it depends on
    /// this kernel alone; the guest sees the mapped owners.
    pub(in crate::isolation::vm) ids: Option<MountIds>,
}

/// What a source is made from.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::isolation::vm) enum Origin {
    /// What is at this path.
    Path(PathBuf),
    /// An overlay that is yet to be mounted.
    Overlay(Overlay),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Overlay(_) => f.write_str("an overlay"),
        }
    }
}
