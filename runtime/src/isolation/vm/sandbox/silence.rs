//! Decides how long a guest may keep those waiting who have asked it for something.
//!
//! Engines wait for most commands for ten seconds at most, so they can't wait for a guest that is
//! frozen, or busy with something else, until the watchdog is sure of that. Time is the machine's
//! own ([`Effort`](super::effort::Effort)), as far as its host gives it some.

use std::time::{Duration, Instant};

/// How often to look.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// After how many ticks a signal counts as sent: a process obeys it, and confirms nothing.
const SENT: u32 = 2;

/// After how many ticks everything else has failed.
const FAILED: u32 = 8;

/// The silence of a guest that was asked for something.
#[derive(Debug)]
pub(super) struct Silence {
    tick: Duration,
    /// When to look again; `None` while nobody waits.
    next: Option<Instant>,
    /// How much of its own time the guest has had.
    had: Duration,
    /// What the machine's threads had computed when this was last looked at.
    computed: Duration,
}

impl Silence {
    /// Makes a silence that has just begun.
    pub(super) fn new(tick: Duration) -> Self {
        Self {
            tick,
            next: None,
            had: Duration::ZERO,
            computed: Duration::ZERO,
        }
    }

    /// Starts anew: the guest has said something, or can't, or nobody waits.
    pub(super) fn heard(&mut self) {
        *self = Self::new(self.tick);
    }

    /// Returns when to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Looks, while somebody waits. `had` returns how much of the time that passed was the
    /// machine's own, given what its threads had computed before.
    pub(super) fn look(
        &mut self,
        now: Instant,
        had: impl FnOnce(&mut Duration, Duration) -> Duration,
    ) {
        match self.next {
            Some(next) if now < next => return,
            Some(_) => {
                let had = had(&mut self.computed, self.tick);
                self.had = self.had.saturating_add(had);
            }
            // Most are answered at once: the machine's threads aren't looked at for them. So of
            // the first tick all counts that they can have had.
            None => {}
        }
        self.next = Some(now + self.tick);
    }

    /// Whether a signal counts as sent.
    pub(super) fn is_long_for_a_signal(&self) -> bool {
        self.had >= self.tick * SENT
    }

    /// Returns how long the silence has lasted, if everything else has failed.
    pub(super) fn long(&self) -> Option<Duration> {
        (self.had >= self.tick * FAILED).then_some(self.had)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_had_is_counted_however_late_that_is_seen() {
        let mut now = Instant::now();
        let mut silence = Silence::new(TICK);
        assert_eq!(silence.deadline(), None);
        let all = |_: &mut Duration, passed| passed;
        silence.look(now, all);
        assert_eq!(silence.deadline(), Some(now + TICK));
        for tick in 1..FAILED {
            now += 100 * TICK;
            silence.look(now, all);
            silence.look(now, all);
            assert_eq!(silence.is_long_for_a_signal(), tick >= SENT);
            assert_eq!(silence.long(), None);
        }
        now += TICK;
        silence.look(now, |_, _| Duration::ZERO);
        assert_eq!(silence.long(), None);
        now += TICK;
        silence.look(now, all);
        assert_eq!(silence.long(), Some(FAILED * TICK));
        silence.heard();
        assert!(!silence.is_long_for_a_signal() && silence.deadline().is_none());
    }
}
