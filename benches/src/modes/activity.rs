//! Detects whether a VM does anything but compute. In the testbed a guest may wait forever for a
//! lock that it holds (tests/testbed/README.md), and time passes so slowly there that a time limit
//! doesn't work.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

/// The threads of a sandbox process that aren't its guest's processors.
pub(super) struct Activity(Vec<PathBuf>);

impl Activity {
    /// Finds those of a process. A process that isn't a sandbox process has none.
    pub(super) fn of(pid: &str) -> Result<Self, Box<dyn Error>> {
        let mut processors = 0;
        let mut others = Vec::new();
        for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            if fs::read_to_string(thread.join("comm"))?.starts_with("vcpu") {
                processors += 1
            } else {
                others.push(thread.join("schedstat"))
            }
        }
        Ok(Self(match processors {
            0 => Vec::new(),
            _ => others,
        }))
    }

    /// Returns a value that changes when one of them runs; none if that can't be told.
    pub(super) fn look(&self) -> Result<Option<String>, Box<dyn Error>> {
        let times = self.0.iter().map(fs::read_to_string);
        let times: String = times.collect::<Result<_, _>>()?;
        Ok(Some(times).filter(|times| !times.is_empty()))
    }
}
