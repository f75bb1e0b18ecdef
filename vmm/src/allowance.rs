//! Limits how much of something a guest can make this host do.

use std::time::{Duration, Instant};

/// An amount of something: some at once, more as time passes, and optionally a limit in all.
/// Whatever a guest can make the host write, keep or send again and again is taken from an
/// allowance, and left undone or put off when none is left.
#[derive(Debug, Clone)]
pub struct Allowance {
    most: u64,
    /// This much comes in each `each`.
    more: u64,
    each: Duration,
    /// What is left; below zero, what is owed.
    left: i128,
    in_all: u64,
    since: Instant,
}

impl Allowance {
    /// Allows `most` at once, and one more after each `each`.
    #[must_use]
    pub fn new(most: u64, each: Duration) -> Allowance {
        Allowance {
            most,
            more: 1,
            each,
            left: most.into(),
            in_all: u64::MAX,
            since: Instant::now(),
        }
    }

    /// Allows `most` at once, and `more` in each second.
    #[must_use]
    pub(crate) fn per_second(most: u64, more: u64) -> Allowance {
        Allowance {
            more,
            ..Allowance::new(most, Duration::from_secs(1))
        }
    }

    /// Limits the total, however much time passes.
    #[must_use]
    pub fn in_all(self, in_all: u64) -> Allowance {
        Allowance { in_all, ..self }
    }

    /// Takes an amount, all of it or nothing; returns whether there was enough.
    pub fn take(&mut self, amount: u64) -> bool {
        self.take_at(amount, Instant::now())
    }

    fn take_at(&mut self, amount: u64, now: Instant) -> bool {
        self.refill(now);
        if i128::from(amount) > self.left || amount > self.in_all {
            return false;
        }
        self.left -= i128::from(amount);
        self.in_all -= amount;
        true
    }

    /// Takes an amount that has been used already: what there wasn't is owed, and comes off what
    /// comes later.
    pub(crate) fn charge(&mut self, amount: u64, now: Instant) {
        self.refill(now);
        self.left = self.left.saturating_sub(amount.into());
    }

    /// Returns how long it takes until something is left; `None` if something is.
    pub(crate) fn delay(&mut self, now: Instant) -> Option<Duration> {
        self.refill(now);
        if self.left > 0 {
            return None;
        }
        let missing = self.left.unsigned_abs().saturating_add(1);
        let nanos = missing
            .saturating_mul(self.each.as_nanos())
            .div_ceil(self.more.max(1).into());
        let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(wait.saturating_sub(now.saturating_duration_since(self.since)))
    }

    fn refill(&mut self, now: Instant) {
        let each = self.each.as_nanos().max(1);
        let passed = now.saturating_duration_since(self.since).as_nanos();
        let came = passed.saturating_mul(self.more.into()) / each;
        let took = (came * each).div_ceil(self.more.max(1).into());
        // The remainder counts towards the next one.
        let over = u64::try_from(passed.saturating_sub(took)).unwrap_or(0);
        self.since = now
            .checked_sub(Duration::from_nanos(over))
            .unwrap_or(now)
            .max(self.since);
        let came = i128::try_from(came).unwrap_or(i128::MAX);
        self.left = self.left.saturating_add(came);
        if self.left >= self.most.into() {
            self.left = self.most.into();
            self.since = now.max(self.since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_amount_is_there_at_once_and_more_comes_with_time() {
        let mut allowance = Allowance::new(3, SECOND);
        let begin = allowance.since;
        let mut take = |amount, after| allowance.take_at(amount, begin + after);
        assert!(take(2, Duration::ZERO));
        assert!(!take(2, Duration::ZERO));
        assert!(take(1, Duration::ZERO));
        assert!(!take(1, SECOND / 2));
        // The halves add up, although something was requested between them.
        assert!(take(1, SECOND));
        assert!(!take(1, SECOND + SECOND / 2));
        // Never more than at the start.
        assert!(!take(4, 100 * SECOND));
        assert!(take(3, 100 * SECOND));
        assert!(!take(1, 100 * SECOND));
    }

    #[test]
    fn nothing_comes_to_what_is_full() {
        let mut allowance = Allowance::new(3, SECOND);
        let begin = allowance.since;
        assert!(allowance.take_at(3, begin + SECOND / 2));
        assert!(!allowance.take_at(1, begin + SECOND));
        assert!(allowance.take_at(1, begin + SECOND + SECOND / 2));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut allowance = Allowance::new(3, SECOND).in_all(4);
        let begin = allowance.since;
        assert!(allowance.take_at(3, begin));
        assert!(!allowance.take_at(2, begin + 100 * SECOND));
        assert!(allowance.take_at(1, begin + 100 * SECOND));
        assert!(!allowance.take_at(1, begin + 1000 * SECOND));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut allowance = Allowance::new(1, SECOND);
        let begin = allowance.since + 10 * SECOND;
        assert!(allowance.take_at(1, begin));
        assert!(!allowance.take_at(1, begin - SECOND));
        assert!(!allowance.take_at(1, begin));
    }

    #[test]
    fn what_was_used_too_much_is_waited_for() {
        let mut allowance = Allowance::per_second(10, 1000);
        let begin = allowance.since;
        assert_eq!(allowance.delay(begin), None);
        // The first use may be of any size; 990 are owed then.
        allowance.charge(1000, begin);
        assert_eq!(allowance.delay(begin), Some(Duration::from_millis(991)));
        let half = begin + SECOND / 2;
        assert_eq!(allowance.delay(half), Some(Duration::from_millis(491)));
        assert!(!allowance.take_at(1, begin + Duration::from_millis(990)));
        let end = begin + Duration::from_millis(991);
        assert_eq!(allowance.delay(end), None);
        assert!(allowance.take_at(1, end) && !allowance.take_at(1, end));
    }

    /// Asked every few nanoseconds, an allowance gives no more than its rate, and not much less.
    #[test]
    fn a_rate_holds_however_often_it_is_asked() {
        for rate in [7, 1000, 3_000_000_007, 1 << 40] {
            let mut allowance = Allowance::per_second(rate, rate);
            let begin = allowance.since;
            allowance.charge(rate, begin);
            let mut taken: u128 = 0;
            for step in 0..100_000 {
                let now = begin + Duration::from_nanos(step * 997);
                if allowance.delay(now).is_none() {
                    let amount = u64::try_from(allowance.left).unwrap();
                    allowance.charge(amount, now);
                    taken += u128::from(amount);
                }
            }
            let all = u128::from(rate) * 99_999 * 997 / 1_000_000_000;
            assert!(
                taken <= all && taken >= all - all / 100,
                "{rate}: {taken} of {all}"
            );
        }
    }

    #[test]
    fn no_amount_is_too_large() {
        let mut allowance = Allowance::per_second(u64::MAX, u64::MAX);
        let begin = allowance.since;
        for _ in 0..4 {
            allowance.charge(u64::MAX, begin);
        }
        assert_eq!(
            allowance.delay(begin + 2 * SECOND),
            Some(SECOND + Duration::from_nanos(1))
        );
        assert_eq!(allowance.delay(begin + 100 * 365 * 86_400 * SECOND), None);
        let mut slow = Allowance::per_second(0, 0);
        assert!(slow.delay(slow.since).is_some());
    }
}
