//! Says when a phase of a start has ended: a debug message, which costs nothing where nobody wants those.

/// How the message begins, before the phase's name, a space and the moment.
pub const MARK: &str = "phase ended: ";

/// Says that a phase has ended.
pub fn ended(phase: &'static str) {
    tracing::debug!("{MARK}{phase} {}", moment());
}

/// Returns the monotonic clock, in nanoseconds; it is the same for all processes of a host.
pub fn moment() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for the call, which writes to it.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
