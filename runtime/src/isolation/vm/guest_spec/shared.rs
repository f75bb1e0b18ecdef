//! The host's files that a guest gets.

use std::path::PathBuf;

use super::source::Source;

/// The host's files that the guest gets.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::isolation::vm) struct Shared {
    /// The container's root.
    pub(in crate::isolation::vm) root: PathBuf,
    /// Whether the container may not write to its root.
    pub(in crate::isolation::vm) root_is_read_only: bool,
    /// Whether the container's root is an overlay over this one, to which nothing writes then.
    pub(in crate::isolation::vm) root_is_base: bool,
    /// The sources of its bind mounts: the Nth is `mounts/N`.
    pub(in crate::isolation::vm) binds: Vec<Source>,
    /// The programs of hooks: the Nth is `hooks/N`.
    pub(in crate::isolation::vm) hooks: Vec<Source>,
}
