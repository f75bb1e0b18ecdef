//! What is done with a container's root file system in a VM.

use serde::Deserialize;

/// What is done with a container's root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RootKind {
    /// The host's directory.
    Shared,
    /// The host's directory, read-only, below what the container writes.
    Overlay,
}

impl RootKind {
    /// Returns the kind with that name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "shared" => Some(Self::Shared),
            "overlay" => Some(Self::Overlay),
            _ => None,
        }
    }
}
