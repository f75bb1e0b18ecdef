//! `nacre events`: what a container uses, and that it ran out of memory.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nacre_agent::container::cgroups::{OomWatch, Stats};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::state::Status;

use super::{Found, ProcessError};

/// What there is to tell of a container.
#[derive(Debug)]
pub(crate) enum Event {
    /// What it uses.
    Stats(Box<Stats>),
    /// It ran out of memory.
    Oom,
}

/// What a container uses now.
pub(crate) fn stats(found: &Found<'_>, status: Status) -> Result<Event, ProcessError> {
    if status == Status::Stopped {
        return Err(found.not_running(status));
    }
    let stats = found.cgroup("events")?.stats()?;
    Ok(Event::Stats(Box::new(stats)))
}

/// Tells of events until the container ends: what it uses after each `interval`, and that it
/// ran out of memory when that happens.
pub(crate) fn watch<E: From<ProcessError>>(
    found: &Found<'_>,
    status: Status,
    interval: Duration,
    mut tell: impl FnMut(Event) -> Result<(), E>,
) -> Result<(), E> {
    let not_running = || found.not_running(Status::Stopped);
    let container = found.attach()?.ok_or_else(not_running)?;
    let init = container.pidfd().ok_or_else(not_running)?;
    let cgroup = found.cgroup("events")?;
    let mut oom = cgroup.oom_watch().map_err(ProcessError::from)?;
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        match wait(init, oom.as_ref(), left)? {
            Woken::Ended => return Ok(()),
            Woken::Oom => {
                let count = oom.as_mut().map_or(Ok(None), OomWatch::count);
                let count = count.map_err(ProcessError::host("can't count what ran out"))?;
                for _ in 0..count.unwrap_or(0) {
                    tell(Event::Oom)?;
                }
                if count.is_none() {
                    // The init's end is what is left to wait for.
                    oom = None;
                }
            }
            Woken::Tick => {
                tell(stats(found, status)?)?;
                next += interval;
            }
        }
    }
}

enum Woken {
    Ended,
    Oom,
    Tick,
}

/// Waits for whatever comes first. That memory ran out comes before the end that it may have
/// brought.
fn wait(
    init: BorrowedFd<'_>,
    oom: Option<&OomWatch>,
    left: Duration,
) -> Result<Woken, ProcessError> {
    let mut fds = vec![PollFd::new(init, PollFlags::POLLIN)];
    fds.extend(oom.map(|oom| PollFd::new(oom.as_fd(), PollFlags::POLLIN)));
    // Rounded up, or the last millisecond would be spent on waking.
    let milliseconds = left.as_micros().div_ceil(1000);
    let timeout = i32::try_from(milliseconds).unwrap_or(i32::MAX);
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(ProcessError::host("can't wait for events")(e)),
    }
    let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any().unwrap_or(true));
    Ok(if ready(fds.get(1)) {
        Woken::Oom
    } else if ready(fds.first()) {
        Woken::Ended
    } else {
        Woken::Tick
    })
}
