//! Finds a guest that is frozen: its vCPUs spin with interrupts off, or halt for ever, or its agent
//! does nothing any more.
//!
//! A guest that has said nothing for a quarter of the time that it is given is asked for a word,
//! and is frozen when it hasn't said one for all of that time since. Time is counted in wake-ups
//! of this process, so that one that was stopped itself, or had no CPU, blames nobody: neither had
//! its guest. An idle container costs a wake-up each quarter, and a message each half.

use std::time::{Duration, Instant};

/// Into how many parts the time is divided.
const PARTS: u32 = 4;

/// Watches over a guest.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// How long a guest may say nothing; none if nobody watches.
    limit: Option<Duration>,
    next: Instant,
    /// For how many parts nothing was heard.
    silent: u32,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    Nothing,
    /// The guest should be asked for a word.
    Ask,
    /// It has been silent for so long.
    Frozen(Duration),
}

impl Watchdog {
    /// One that gives a guest so long; zero is for ever.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        let limit = (!limit.is_zero()).then_some(limit);
        Self {
            limit,
            next: now + limit.unwrap_or_default() / PARTS,
            silent: 0,
        }
    }

    /// The guest has said something, or can't.
    pub(super) fn heard(&mut self) {
        self.silent = 0;
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.limit.map(|_| self.next)
    }

    /// Looks.
    pub(super) fn look(&mut self, now: Instant) -> Finding {
        let Some(limit) = self.limit.filter(|_| now >= self.next) else {
            return Finding::Nothing;
        };
        self.next = now + limit / PARTS;
        self.silent += 1;
        match self.silent {
            // Something was heard in the part before.
            1 => Finding::Nothing,
            2 => Finding::Ask,
            silent if silent > PARTS + 1 => Finding::Frozen(limit),
            _ => Finding::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(40);
    const PART: Duration = Duration::from_secs(10);

    /// What is found in so many parts, one after the other.
    fn look(watchdog: &mut Watchdog, now: &mut Instant, parts: u32) -> Vec<Finding> {
        let part = |_| {
            *now += PART;
            watchdog.look(*now)
        };
        (0..parts).map(part).collect()
    }

    #[test]
    fn a_silent_guest_is_asked_and_then_frozen() {
        use Finding::{Ask, Frozen, Nothing};
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(LIMIT, now);
        assert_eq!(watchdog.deadline(), Some(now + PART));
        assert_eq!(watchdog.look(now), Nothing);
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
    fn however_late_it_looks_that_is_one_part() {
        let mut now = Instant::now();
        let mut watchdog = Watchdog::new(LIMIT, now);
        look(&mut watchdog, &mut now, 2);
        now += 100 * LIMIT;
        assert_eq!(watchdog.look(now), Finding::Nothing);
        assert_eq!(watchdog.deadline(), Some(now + PART));
    }

    #[test]
    fn nobody_watches_if_there_is_no_limit() {
        let now = Instant::now();
        let mut watchdog = Watchdog::new(Duration::ZERO, now);
        assert_eq!(watchdog.deadline(), None);
        assert_eq!(watchdog.look(now + LIMIT), Finding::Nothing);
    }
}
