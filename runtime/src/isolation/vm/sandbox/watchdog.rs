//! Finds a guest that is frozen: its vCPUs spin with interrupts off, or halt for ever, or its agent
//! does nothing any more.
//!
//! A guest that has said nothing for a quarter of its time limit is pinged, and counts as frozen
//! once it has then been silent for the whole limit. Time is counted in wake-ups of this process,
//! so that one that was stopped itself, or had no CPU, blames nobody; of the time that passes, only
//! the machine's own counts ([`Effort`](super::effort::Effort)). An idle container costs a wake-up
//! each quarter, and a message each half.

use std::time::{Duration, Instant};

/// Into how many parts the limit is divided.
const PARTS: u32 = 4;

/// Watches over a guest.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// How long a guest may say nothing; `None` if nobody watches.
    limit: Option<Duration>,
    next: Instant,
    /// In how many parts in a row nothing was heard.
    silent: u32,
    /// How much time of its own the guest has had since it was pinged.
    had: Duration,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Nothing,
    /// The guest should be pinged.
    Ask,
    /// The guest has been silent for this long.
    Frozen(Duration),
}

impl Watchdog {
    /// Makes a watchdog with this limit; zero means none.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        let limit = (!limit.is_zero()).then_some(limit);
        Self {
            limit,
            next: now + limit.unwrap_or_default() / PARTS,
            silent: 0,
            had: Duration::ZERO,
        }
    }

    /// Notes that the guest has said something, or can't.
    pub(super) fn heard(&mut self) {
        self.silent = 0;
    }

    /// Returns when to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.limit.map(|_| self.next)
    }

    /// Looks. `had` returns how much of the time since the last look was the machine's own.
    pub(super) fn look(&mut self, now: Instant, had: impl FnOnce(Duration) -> Duration) -> Finding {
        let Some(limit) = self.limit.filter(|_| now >= self.next) else {
            return Finding::Nothing;
        };
        self.next = now + limit / PARTS;
        let had = had(limit / PARTS);
        self.silent = self.silent.saturating_add(1);
        match self.silent {
            // Something was heard in the part before.
            1 => return Finding::Nothing,
            2 => {
                self.had = Duration::ZERO;
                return Finding::Ask;
            }
            _ => self.had = self.had.saturating_add(had),
        }
        if self.had >= limit {
            Finding::Frozen(limit)
        } else {
            Finding::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(40);
    const PART: Duration = Duration::from_secs(10);

    /// Returns the findings of so many parts, one after the other.
    fn look(watchdog: &mut Watchdog, now: &mut Instant, parts: u32) -> Vec<Finding> {
        let part = |_| {
            *now += PART;
            watchdog.look(*now, |part| part)
        };
        (0..parts).map(part).collect()
    }

    #[test]
    fn a_silent_guest_is_asked_and_then_frozen() {
        use Finding::{Ask, Frozen, Nothing};
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(LIMIT, now);
        assert_eq!(watchdog.deadline(), Some(now + PART));
        assert_eq!(watchdog.look(now, |part| part), Nothing);
        let found = look(&mut watchdog, &mut now, 6);
        assert_eq!(
            found,
            [Nothing, Ask, Nothing, Nothing, Nothing, Frozen(LIMIT)]
        );
    }

    #[test]
    fn a_guest_that_answers_is_asked_again_and_again() {
        use Finding::{Ask, Nothing};
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(LIMIT, now);
        for _ in 0..10 {
            assert_eq!(look(&mut watchdog, &mut now, 2), [Nothing, Ask]);
            watchdog.heard();
        }
    }

    #[test]
    fn a_guest_is_given_its_own_time() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(LIMIT, now);
        look(&mut watchdog, &mut now, 2);
        let mut slowly = || {
            now += PART;
            watchdog.look(now, |part| part / 10)
        };
        for _ in 0..39 {
            assert_eq!(slowly(), Finding::Nothing);
        }
        assert_eq!(slowly(), Finding::Frozen(LIMIT));
    }

    #[test]
    fn however_late_it_looks_that_is_one_part() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(LIMIT, now);
        look(&mut watchdog, &mut now, 2);
        now += 100 * LIMIT;
        assert_eq!(watchdog.look(now, |part| part), Finding::Nothing);
        assert_eq!(watchdog.deadline(), Some(now + PART));
    }

    #[test]
    fn nobody_watches_if_there_is_no_limit() {
        let now = Instant::now();
        let mut watchdog = Watchdog::new(Duration::ZERO, now);
        assert_eq!(watchdog.deadline(), None);
        assert_eq!(watchdog.look(now + LIMIT, |part| part), Finding::Nothing);
    }
}
