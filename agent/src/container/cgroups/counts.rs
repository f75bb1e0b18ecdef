//! What the kernel has counted of a cgroup.

use super::cgroup::Cgroup;
use super::error::CgroupError;
use super::setting::keyed;
use super::{v1, v2};

impl Cgroup {
    /// Returns how many processes, in it and in the cgroups below, were OOM-killed. 0 where there
    /// is no memory controller.
    ///
    /// # Errors
    ///
    /// The errors of reading the controller's files.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        match (self.v1_with("memory"), &self.v2) {
            (Some(directory), _) => v1::oom_kills(directory),
            (None, Some(directory)) => v2::oom_kills(&directory.path),
            (None, None) => Ok(0),
        }
    }

    /// Returns how many forks its limit on processes has refused. `None` where that isn't counted.
    pub(crate) fn refused_processes(&self) -> Option<u64> {
        let of_v2 = || Some(self.v2.as_ref()?.path.as_path());
        let directory = self.v1_with("pids").or_else(of_v2)?;
        let events = std::fs::read_to_string(directory.join("pids.events")).ok()?;
        keyed(&events, "max")
    }
}
