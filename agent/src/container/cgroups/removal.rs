//! Removes a container's cgroup.

use std::time::Instant;

use super::error::REMOVAL_BOUND;
use super::pause::Pause;
use super::{Cgroup, CgroupError};

impl Cgroup {
    /// Kills what is left in it and removes it, the cgroups that the workload made below it, and
    /// its ancestors that were made for it, if nothing else is in them.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Busy`] if processes are still there after 10 s; otherwise the kernel's.
    /// Removes what can be removed, and can be called again.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let until = Instant::now() + REMOVAL_BOUND;
        // Usually all have ended and nothing was made below it: then nothing else is left to do.
        let quickly = self.directories().all(|directory| directory.vanish());
        if quickly {
            return Ok(());
        }
        let mut pause = Pause::new(until);
        while self.is_populated()? {
            // Each time again: a process may have been moved in since.
            self.kill()?;
            if !self.is_populated()? {
                break;
            }
            if !pause.rest() {
                let path = self.path().to_owned();
                return Err(CgroupError::Busy { path });
            }
        }
        let removed = self.directories().map(|directory| directory.remove(until));
        removed.fold(Ok(()), Result::and)
    }
}
