//! Measures how fast this host's time-stamp counter is, which QEMU passes through to its guest.
//!
//! The guest would otherwise measure it against a PC's emulated timer, which takes long and fails
//! on a busy host; then it has no clock finer than its tick. A guest of QEMU can be told only on
//! the command line.

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::time::{Duration, Instant};

/// The minimum duration of a measurement. A reading is off by well under a microsecond, so the
/// error is no more than that of quartz crystals.
const LEAST: Duration = Duration::from_millis(4);

/// How often a reading is tried: the quickest one counts, as it wasn't interrupted.
const TRIES: usize = 4;

/// CPUID leaf 0x8000_0007, EDX: the counter runs at one speed, whatever the processor does.
const POWER_LEAF: u32 = 0x8000_0007;
const INVARIANT: u32 = 1 << 8;

/// A measurement in progress.
pub(super) struct Measurement(Option<(u64, Instant)>);

impl Measurement {
    /// Begins one, if the counter is reliable.
    pub(super) fn begin() -> Measurement {
        let max = __cpuid(0x8000_0000).eax;
        let invariant = max >= POWER_LEAF && __cpuid(POWER_LEAF).edx & INVARIANT != 0;
        Measurement(invariant.then(read))
    }

    /// Returns the counter's speed in kHz; `None` if it isn't reliable.
    pub(super) fn end(self) -> Option<u64> {
        let (first, began) = self.0?;
        std::thread::sleep(LEAST.saturating_sub(began.elapsed()));
        let (last, ended) = read();
        let ticks = u128::from(last.checked_sub(first)?);
        let nanoseconds = ended.duration_since(began).as_nanos();
        u64::try_from(ticks * 1_000_000 / nanoseconds.max(1)).ok()
    }
}

/// Reads the counter and the clock at the same moment.
fn read() -> (u64, Instant) {
    let mut best = (u64::MAX, 0, Instant::now());
    for _ in 0..TRIES {
        // SAFETY: every x86-64 processor has the instruction.
        let before = unsafe { _rdtsc() };
        let now = Instant::now();
        // SAFETY: as above.
        let after = unsafe { _rdtsc() };
        let took = after.wrapping_sub(before);
        if took < best.0 {
            best = (took, before.wrapping_add(took / 2), now);
        }
    }
    (best.1, best.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs an invariant counter"]
    fn two_measurements_agree() {
        let measure = || Measurement::begin().end();
        let (Some(first), Some(second)) = (measure(), measure()) else {
            panic!("skipped: the counter isn't invariant");
        };
        assert!((100_000..10_000_000).contains(&first), "{first} kHz");
        assert!(
            first.abs_diff(second) * 1000 < first,
            "{first} and {second} kHz"
        );
    }
}
