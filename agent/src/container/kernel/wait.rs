//! Waits for descriptors, for no longer than a bound.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longer than anyone waits.
pub(crate) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Waits until `fd` can be read without blocking. Returns `false` if it can't after `bound`.
pub(crate) fn wait_until_readable(fd: BorrowedFd<'_>, bound: Duration) -> io::Result<bool> {
    wait_until_one_is_readable(&[fd], bound)
}

/// As [`wait_until_readable`], for any of `fds`.
pub(crate) fn wait_until_one_is_readable(
    fds: &[BorrowedFd<'_>],
    bound: Duration,
) -> io::Result<bool> {
    let until = Instant::now() + bound;
    let asked_for = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
    let mut asked_for: Vec<PollFd<'_>> = asked_for.collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut asked_for, timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}
