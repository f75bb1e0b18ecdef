//! The binary of a QEMU: whether it is there, and new enough.

use std::fs::File;
use std::io;

use super::ask::Question;
use super::version;
use crate::hypervisor::{OLDEST, Qemu, Version};
use crate::qemu_error::QemuError;

impl Qemu {
    /// Opens its binary.
    ///
    /// # Errors
    ///
    /// [`QemuError::Missing`].
    pub(super) fn open(&self) -> Result<File, QemuError> {
        File::open(self.path())
            .and_then(|file| {
                if !file.metadata()?.is_file() {
                    return Err(io::Error::other("not a file"));
                }
                Ok(file)
            })
            .map_err(|source| QemuError::Missing {
                path: self.path().to_owned(),
                source,
            })
    }

    /// Checks that it exists, without running it, which takes hardly any time.
    ///
    /// # Errors
    ///
    /// [`QemuError::Missing`].
    pub fn find(&self) -> Result<(), QemuError> {
        self.open().map(drop)
    }

    /// Asks which shared libraries it needs.
    pub(super) fn ask_for_libraries(&self) -> Result<Question, QemuError> {
        Question::libraries(self.path()).map_err(|reason| self.unusable(reason))
    }

    pub(super) fn unusable(&self, reason: String) -> QemuError {
        QemuError::NotQemu {
            path: self.path().to_owned(),
            reason,
        }
    }

    /// Runs it to ask for its version, which must be [`OLDEST`] or newer. That takes some 30 ms,
    /// and at most some seconds.
    ///
    /// # Errors
    ///
    /// [`QemuError`].
    pub fn check(&self) -> Result<Version, QemuError> {
        self.find()?;
        let found = version::ask(self.path()).map_err(|reason| self.unusable(reason))?;
        if found < OLDEST {
            return Err(QemuError::TooOld {
                path: self.path().to_owned(),
                found,
            });
        }
        Ok(found)
    }

    /// Returns why something isn't a suitable QEMU that was started as one, if it isn't. It existed
    /// then; this process may have left the host's file systems since, and then it was suitable.
    pub(crate) fn fault(&self) -> Option<QemuError> {
        match self.check() {
            Ok(_) | Err(QemuError::Missing { .. }) => None,
            Err(error) => Some(error),
        }
    }
}
