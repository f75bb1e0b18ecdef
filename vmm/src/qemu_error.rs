//! Why there is no QEMU to use.

use std::io;
use std::path::PathBuf;

use crate::hypervisor::{OLDEST, Version};

/// Why there is no QEMU to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// It isn't installed, or can't be opened.
    #[error("there is no QEMU at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// It is too old.
    #[error("{path} is version {found}, and {OLDEST} is the oldest that will do")]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// It doesn't report its version.
    #[error("{path} doesn't say that it is a QEMU: {reason}")]
    NotQemu {
        /// The file.
        path: PathBuf,
        /// What it did instead.
        reason: String,
    },
}
