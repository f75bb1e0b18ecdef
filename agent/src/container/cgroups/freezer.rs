//! Freezes and thaws a container's processes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::error::FREEZING_BOUND;
use super::pause::Pause;
use super::setting::{keyed, write};
use super::{Cgroup, CgroupError};

/// What freezes a container's processes.
enum Freezer {
    /// `cgroup.freeze`, which leaves them killable.
    V2(PathBuf),
    /// v1's controller.
    V1(PathBuf),
}

impl Cgroup {
    /// Freezes all of its processes, and waits until they have stopped.
    ///
    /// # Errors
    ///
    /// [`CgroupError::NotFrozen`] after 10 s; they go on then. [`CgroupError::NoFreezer`];
    /// [`CgroupError::Directory`].
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let freezer = self.freezers().next().ok_or(CgroupError::NoFreezer)?;
        let frozen = freezer.freeze();
        if frozen.is_err() {
            // The first error is the one to report.
            let _ = freezer.thaw();
        }
        frozen
    }

    /// Thaws its processes, whoever froze them with whichever freezer.
    ///
    /// # Errors
    ///
    /// [`CgroupError::NoFreezer`] or [`CgroupError::Directory`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        self.freezers()
            .map(|freezer| freezer.thaw())
            .reduce(Result::and)
            .unwrap_or(Err(CgroupError::NoFreezer))
    }

    /// Whether anyone has frozen its processes, or they are about to be frozen. Without a freezer
    /// they can't be.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`], but not for a cgroup that is gone.
    pub fn is_frozen(&self) -> Result<bool, CgroupError> {
        for freezer in self.freezers() {
            if freezer.is_frozen()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns its freezers. The first is the one to use.
    fn freezers(&self) -> impl Iterator<Item = Freezer> {
        let v2 = self.v2.iter().map(|v2| Freezer::V2(v2.path.clone()));
        let v1 = self.v1_with("freezer").into_iter();
        v2.chain(v1.map(|v1| Freezer::V1(v1.to_owned())))
    }
}

impl Freezer {
    fn freeze(&self) -> Result<(), CgroupError> {
        self.set(true)?;
        let mut pause = Pause::new(Instant::now() + FREEZING_BOUND);
        while !self.has_frozen()? {
            if !pause.rest() {
                let path = self.directory().to_owned();
                return Err(CgroupError::NotFrozen { path });
            }
            // v1 misses a process that is being forked, until it is told again.
            if let Freezer::V1(_) = self {
                self.set(true)?;
            }
        }
        Ok(())
    }

    fn thaw(&self) -> Result<(), CgroupError> {
        self.set(false)
    }

    fn directory(&self) -> &Path {
        match self {
            Freezer::V2(directory) | Freezer::V1(directory) => directory,
        }
    }

    fn set(&self, frozen: bool) -> Result<(), CgroupError> {
        let (file, value) = match (self, frozen) {
            (Freezer::V2(_), true) => ("cgroup.freeze", "1"),
            (Freezer::V2(_), false) => ("cgroup.freeze", "0"),
            (Freezer::V1(_), true) => ("freezer.state", "FROZEN"),
            (Freezer::V1(_), false) => ("freezer.state", "THAWED"),
        };
        let file = self.directory().join(file);
        write(&file, value).map_err(CgroupError::directory("write", &file))
    }

    fn read(&self, file: &str) -> Result<String, CgroupError> {
        let file = self.directory().join(file);
        fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))
    }

    fn has_frozen(&self) -> Result<bool, CgroupError> {
        Ok(match self {
            Freezer::V2(_) => keyed(&self.read("cgroup.events")?, "frozen") == Some(1),
            Freezer::V1(_) => self.read("freezer.state")?.trim() == "FROZEN",
        })
    }

    fn is_frozen(&self) -> Result<bool, CgroupError> {
        let state = match self {
            Freezer::V2(_) => self.read("cgroup.freeze"),
            Freezer::V1(_) => self.read("freezer.state"),
        };
        match state {
            Ok(state) => Ok(matches!(state.trim(), "1" | "FROZEN" | "FREEZING")),
            Err(CgroupError::Directory { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
