//! The end of a container's cgroup.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{Cgroup, CgroupError};

/// How long [`Cgroup::remove`] waits for killed processes to be gone. A process that is
/// killed leaves its cgroup when it exits, which takes as long as its last system call.
pub(super) const REMOVAL_BOUND: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Kills what is left in it and removes it, the cgroups that the workload made below it,
    /// and those above that had to be made for it, if nothing else is in them.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Busy`] if processes are still there after 10 s; otherwise what the
    /// kernel says. What could be removed is, and it can be called again.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let until = Instant::now() + REMOVAL_BOUND;
        // Mostly all have ended and nothing was made below it: then this is all there is to do.
        let quickly = self.directories().all(|directory| directory.vanish());
        if quickly {
            return Ok(());
        }
        let mut pause = Pause::new(until);
        while self.is_populated()? {
            // Again each time: a process may have been moved in since.
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

/// Waits, longer each time.
pub(super) struct Pause {
    next: Duration,
    until: Instant,
}

impl Pause {
    pub(super) fn new(until: Instant) -> Self {
        Pause {
            next: Duration::from_micros(100),
            until,
        }
    }

    /// Waits a little; `false` if time is up.
    pub(super) fn rest(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        sleep(self.next);
        self.next = (self.next * 2).min(Duration::from_millis(20));
        true
    }
}
