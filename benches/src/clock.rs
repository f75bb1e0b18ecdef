//! The clock of the instruction-counting testbed: a nanosecond is an instruction, but when the
//! machine is idle the clock jumps to the next timer at once. The time passed like this is counted
//! as waiting.

use std::error::Error;
use std::fmt;
use std::fs;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// What something took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    /// The time in which instructions were executed.
    pub(crate) work: Duration,
    /// The time in which the machine was idle.
    pub(crate) waiting: Duration,
}

impl Taken {
    /// Returns the instructions in millions.
    pub(crate) fn millions(&self) -> f64 {
        self.work.as_nanos() as f64 / 1e6
    }
}

impl AddAssign for Taken {
    fn add_assign(&mut self, other: Self) {
        self.work += other.work;
        self.waiting += other.waiting;
    }
}

/// Waiting is shown if it is more than a hundredth.
impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} M", self.millions())?;
        if self.waiting * 100 > self.work {
            write!(f, ", and {:.1} ms idle", self.waiting.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

/// Returns the median by work.
pub(crate) fn median(mut taken: Vec<Taken>) -> Taken {
    taken.sort_unstable_by_key(|t| t.work);
    taken.get(taken.len() / 2).copied().unwrap_or_default()
}

/// The start of a measurement.
pub(crate) struct Moment {
    idle: Duration,
    time: Instant,
}

impl Moment {
    pub(crate) fn now() -> Result<Self, Box<dyn Error>> {
        let idle = idle()?;
        let time = Instant::now();
        Ok(Self { idle, time })
    }

    /// Returns what has been taken since.
    pub(crate) fn taken(&self) -> Result<Taken, Box<dyn Error>> {
        let passed = self.time.elapsed();
        let waiting = idle()?.saturating_sub(self.idle);
        Ok(Taken {
            work: passed.saturating_sub(waiting),
            waiting,
        })
    }
}

/// Returns how long the machine's one CPU has been idle, to the nanosecond.
fn idle() -> Result<Duration, Box<dyn Error>> {
    const FILE: &str = "/proc/timer_list";
    const FIELD: &str = ".idle_sleeptime";
    let timers = fs::read_to_string(FILE).map_err(|e| format!("{FILE}: {e}"))?;
    let field = timers
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(FIELD))
        .and_then(|rest| rest.trim_start().strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| format!("{FILE} has no {FIELD}"))?;
    Ok(Duration::from_nanos(field.parse()?))
}
