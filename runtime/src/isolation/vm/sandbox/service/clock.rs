//! Keeps the guest's wall clock in step with the host's.
//!
//! The guest is asked what its clock shows, and told by how much to move it: before the workload's
//! first instruction, after a pause, and then every so often. A correction doesn't depend on how
//! long it takes to arrive. A measurement does: the guest looked at its clock at some moment
//! between the question and the answer, so it is asked again if that took too long.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nacre_agent::protocol::Correction;

use crate::isolation::vm::sandbox::clients::ClientId;

/// How exact a measurement is to be, in nanoseconds, and how often it is tried.
pub(super) const EXACT: u64 = 1_000_000;
pub(super) const TRIES: u8 = 6;

/// The largest error that is corrected without a jump while the workload runs, in nanoseconds.
const MOST_SLEWED: u64 = 100_000_000;

/// How long until the next look at the clock: at first, and at most, while it is found to be right.
const SHORTEST: Duration = Duration::from_secs(8);
const LONGEST: Duration = Duration::from_secs(64);

/// How far off a clock may be and still be looked at less often, in nanoseconds.
const STEADY: u64 = 2_000_000;

/// When to look at the clock.
pub(super) struct Schedule {
    pub(super) next: Instant,
    pub(super) pace: Duration,
}

impl Schedule {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: now + SHORTEST,
            pace: SHORTEST,
        }
    }

    pub(super) fn looked(&mut self, reading: Reading) {
        self.pace = if reading.behind.unsigned_abs() <= STEADY {
            (self.pace * 2).min(LONGEST)
        } else {
            SHORTEST
        };
        self.next = Instant::now() + self.pace;
    }
}

/// A question that the guest hasn't answered yet.
pub(super) struct Question {
    pub(super) why: Why,
    pub(super) asked: SystemTime,
    pub(super) tries: u8,
    pub(super) best: Option<Reading>,
}

/// Why the clock is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The container that this client starts waits for it.
    Start(ClientId),
    /// The guest was paused, or hasn't been told before.
    Resume,
    /// The schedule says so.
    Schedule,
}

/// By how much a guest's clock is behind the host's, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) behind: i64,
    /// How far off `behind` can be.
    pub(super) doubt: u64,
}

impl Reading {
    /// Makes a reading: the guest's clock showed `shown` at some moment between the other two.
    pub(super) fn new(shown: i64, before: i64, after: i64) -> Self {
        let took = after.saturating_sub(before).max(0);
        let middle = before.saturating_add(took / 2);
        Self {
            behind: middle.saturating_sub(shown),
            doubt: took.unsigned_abs() / 2,
        }
    }

    /// Returns the correction that it calls for. A running workload sees no jump if that can be
    /// avoided.
    pub(super) fn correction(self, runs: bool) -> Option<Correction> {
        match self.behind.unsigned_abs() {
            off if off <= self.doubt => None,
            off if runs && off <= MOST_SLEWED => Some(Correction::Slew(self.behind)),
            _ => Some(Correction::Step(self.behind)),
        }
    }
}

pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_was_looked_at_between_question_and_answer() {
        let reading = Reading::new(1_000, 5_000, 7_000);
        let expected = Reading {
            behind: 5_000,
            doubt: 1_000,
        };
        assert_eq!(reading, expected);
        // Whatever a guest says, and even if the host's clock was set meanwhile.
        assert_eq!(Reading::new(i64::MIN, i64::MAX - 1, 0).doubt, 0);
    }

    #[test]
    fn a_clock_is_moved_by_what_it_is_surely_off() {
        let correction = |behind, doubt, runs| Reading { behind, doubt }.correction(runs);
        assert_eq!(correction(900, 1_000, false), None);
        assert_eq!(correction(-900, 1_000, true), None);
        assert_eq!(
            correction(-2_000, 1_000, false),
            Some(Correction::Step(-2_000))
        );
        assert_eq!(
            correction(-2_000, 1_000, true),
            Some(Correction::Slew(-2_000))
        );
        let hour = 3_600_000_000_000;
        assert_eq!(correction(hour, 1_000, true), Some(Correction::Step(hour)));
    }

    #[test]
    fn a_steady_clock_is_looked_at_less_often() {
        let mut schedule = Schedule::new(Instant::now());
        let off = |behind| Reading { behind, doubt: 0 };
        for expected in [16, 32, 64, 64] {
            schedule.looked(off(-1_000_000));
            assert_eq!(schedule.pace, Duration::from_secs(expected));
        }
        schedule.looked(off(3_000_000));
        assert_eq!(schedule.pace, SHORTEST);
    }
}
