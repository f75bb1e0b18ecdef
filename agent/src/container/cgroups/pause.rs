//! Waits for what the kernel tells nobody of.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// A wait that gets longer each time.
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

    /// Waits a little; returns `false` if time is up.
    pub(super) fn rest(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        sleep(self.next);
        self.next = (self.next * 2).min(Duration::from_millis(20));
        true
    }
}
