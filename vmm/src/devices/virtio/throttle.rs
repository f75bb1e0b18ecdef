//! Limits how much a device does for its guest, so that one guest can't take all that the host has
//! of a disk or a network.
//!
//! A device carries out a request if anything is left, takes the request's bytes and itself from
//! what is left, and owes what there wasn't. So a request may be larger than what is allowed at
//! once, and over any time a guest gets no more than the rate, what is allowed at once, and one
//! request of each of the device's threads. While nothing is left, requests wait where they are.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::timerfd::TimerFd;

use super::thread::Stop;
use crate::allowance::Allowance;

/// The shortest wait, after which there is enough for more than one small request.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// How much a device may do for its guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// How many bytes it moves; `None` for any number of them.
    pub bytes: Option<Rate>,
    /// How many requests it carries out, or packets it moves; `None` for any number of them.
    pub operations: Option<Rate>,
}

/// An amount for each second, and what may be used at once after a time of rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The amount for each second.
    pub per_second: u64,
    /// What may be used at once.
    pub burst: u64,
}

impl Rate {
    /// Returns a rate at which what is for a second may be used at once.
    pub fn per_second(amount: u64) -> Rate {
        Rate {
            per_second: amount,
            burst: amount,
        }
    }
}

/// What a device, or several that have a clone of it, may do at present. The default is anything.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Option<Arc<Mutex<Left>>>);

/// What is left.
#[derive(Debug)]
struct Left {
    bytes: Option<Allowance>,
    operations: Option<Allowance>,
}

impl Throttle {
    /// Makes a throttle. One without a limit costs nothing.
    pub fn new(limit: RateLimit) -> Throttle {
        let allowance = |rate: Rate| Allowance::per_second(rate.burst, rate.per_second);
        let limited = limit != RateLimit::default();
        Throttle(limited.then(|| {
            Arc::new(Mutex::new(Left {
                bytes: limit.bytes.map(allowance),
                operations: limit.operations.map(allowance),
            }))
        }))
    }

    /// Returns whether it limits anything.
    pub(crate) fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Returns what one thread of a device needs to keep to it.
    ///
    /// # Errors
    ///
    /// If there is a limit, and the host has no more timers.
    pub(crate) fn brake(&self) -> io::Result<Brake> {
        let Some(left) = &self.0 else {
            return Ok(Brake::default());
        };
        Ok(Brake(Some(Limited {
            left: Arc::clone(left),
            timer: TimerFd::new()?,
        })))
    }
}

impl Left {
    fn charge(&mut self, bytes: u64, now: Instant) {
        if let Some(left) = &mut self.bytes {
            left.charge(bytes, now);
        }
        if let Some(left) = &mut self.operations {
            left.charge(1, now);
        }
    }

    fn delay(&mut self, now: Instant) -> Option<Duration> {
        let kinds = [&mut self.bytes, &mut self.operations];
        let delays = kinds.map(|left| left.as_mut()?.delay(now));
        delays.into_iter().max().flatten()
    }
}

/// Keeps one thread of a device to a throttle. The default doesn't hold it back.
#[derive(Default)]
pub(crate) struct Brake(Option<Limited>);

struct Limited {
    left: Arc<Mutex<Left>>,
    timer: TimerFd,
}

impl Limited {
    /// Each change is a single step, so it is consistent whoever panicked.
    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Brake {
    /// Returns whether nothing is left for the next request. If so, [`Self::timer`] becomes
    /// readable when it is worth asking again.
    pub(crate) fn holds(&mut self) -> io::Result<bool> {
        let Some(limited) = &mut self.0 else {
            return Ok(false);
        };
        let delay = limited.left().delay(Instant::now());
        let Some(delay) = delay else {
            return Ok(false);
        };
        // This also takes back that it was readable.
        limited.timer.reset(delay.max(SHORTEST_WAIT), None)?;
        Ok(true)
    }

    /// Returns what to wait for while it holds.
    pub(crate) fn timer(&self) -> Option<&TimerFd> {
        self.0.as_ref().map(|limited| &limited.timer)
    }

    /// Takes a request of this many bytes from what is left.
    pub(crate) fn charge(&self, bytes: u64) {
        if let Some(limited) = &self.0 {
            limited.left().charge(bytes, Instant::now());
        }
    }

    /// Waits until something is left; returns false if the thread must end instead.
    pub(crate) fn wait(&mut self, stop: &Stop) -> io::Result<bool> {
        while !stop.requested() {
            if !self.holds()? {
                return Ok(true);
            }
            if let Some(timer) = self.timer() {
                stop.wait(&[timer.as_raw_fd()])?;
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(bytes: Option<u64>, operations: Option<u64>) -> Left {
        let throttle = Throttle::new(RateLimit {
            bytes: bytes.map(Rate::per_second),
            operations: operations.map(Rate::per_second),
        });
        Arc::into_inner(throttle.0.unwrap())
            .unwrap()
            .into_inner()
            .unwrap()
    }

    #[test]
    fn the_scarcer_of_bytes_and_operations_holds() {
        let now = Instant::now();
        for (bytes, operations, held) in [
            (Some(1000), None, true),
            (None, Some(1), true),
            (None, Some(2), false),
            (Some(1000), Some(1000), true),
            (Some(1001), Some(1), true),
            (Some(1001), Some(2), false),
        ] {
            let mut left = left(bytes, operations);
            assert_eq!(left.delay(now), None);
            left.charge(1000, now);
            assert_eq!(left.delay(now).is_some(), held, "{bytes:?} {operations:?}");
        }
        let mut both = left(Some(1000), Some(10));
        for _ in 0..20 {
            both.charge(100, now);
        }
        let until_operations = Duration::from_secs(1) + Duration::from_millis(100);
        assert_eq!(both.delay(now), Some(until_operations));
    }

    #[test]
    fn nothing_is_held_without_a_limit() {
        let throttle = Throttle::new(RateLimit::default());
        assert!(!throttle.is_limited());
        let mut brake = throttle.brake().unwrap();
        brake.charge(u64::MAX);
        assert!(!brake.holds().unwrap() && brake.timer().is_none());
    }

    #[test]
    fn clones_share_what_is_left() {
        let throttle = Throttle::new(RateLimit {
            bytes: Some(Rate::per_second(1)),
            operations: None,
        });
        let mut brakes = [(); 2].map(|()| throttle.clone().brake().unwrap());
        assert!(!brakes[1].holds().unwrap());
        brakes[0].charge(1000);
        assert!(brakes[0].holds().unwrap() && brakes[1].holds().unwrap());
    }
}
