//! Reads the usage of a container's cgroup.

use super::files::Files;
use super::{v1, v2};
use crate::container::cgroups::CgroupError;
use crate::container::cgroups::cgroup::Cgroup;
use crate::stats::Stats;

impl Cgroup {
    /// Returns the present and past usage of its processes, and those below. A controller that the
    /// host lacks gives nothing.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] for a file that can't be read, or a cgroup that is gone.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        let mut stats = Stats::default();
        if let Some(directory) = &self.v2 {
            v2::read(&Files(&directory.path), &mut stats)?;
        }
        for member in &self.v1 {
            v1::read(
                &Files(&member.directory.path),
                &member.controllers,
                &mut stats,
            )?;
        }
        Ok(stats)
    }
}
