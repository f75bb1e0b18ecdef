//! Reads and corrects the guest's wall clock, as the host asks.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use nacre_agent::protocol::Correction;
use nix::errno::Errno;

const SECOND: i64 = 1_000_000_000;

// As in `linux/timex.h`; not all C libraries have the last one.
const ADJ_SETOFFSET: libc::c_uint = 0x0100;
const ADJ_NANO: libc::c_uint = 0x2000;
const ADJ_OFFSET_SINGLESHOT: libc::c_uint = 0x8001;

/// Returns the time it shows, in nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

/// Moves it, at once or bit by bit.
pub(super) fn correct(correction: Correction) -> io::Result<()> {
    // SAFETY: all of its fields are numbers.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    match correction {
        Correction::Step(by) => {
            change.modes = ADJ_SETOFFSET | ADJ_NANO;
            change.time.tv_sec = by.div_euclid(SECOND);
            change.time.tv_usec = by.rem_euclid(SECOND);
        }
        Correction::Slew(by) => {
            change.modes = ADJ_OFFSET_SINGLESHOT;
            change.offset = by / 1000;
        }
    }
    // SAFETY: `change` is valid for the call.
    Errno::result(unsafe { libc::adjtimex(&raw mut change) })?;
    Ok(())
}
