//! `nacre events`: what a container uses, and when it runs out of memory.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nacre_agent::container::cgroups::{OomWatch, Stats};

use crate::{
    isolation::wait::{Interest, wait},
    state::Status,
};

use super::{error::ProcessError, found::HostContainer};

/// An event of a container.
#[derive(Debug)]
pub(crate) enum HostEvent {
    /// What the container uses.
    Stats(Box<Stats>),
    /// The container ran out of memory.
    Oom,
}

/// Returns what a container uses at present.
pub(crate) fn stats(found: &HostContainer<'_>, status: Status) -> Result<HostEvent, ProcessError> {
    if status == Status::Stopped {
        return Err(found.not_running(status));
    }
    let stats = found.cgroup("events")?.stats()?;
    Ok(HostEvent::Stats(Box::new(stats)))
}

/// Reports events until the container ends: what it uses, after each `interval`, and when it runs
/// out of memory.
pub(crate) fn watch<E: From<ProcessError>>(
    found: &HostContainer<'_>,
    status: Status,
    interval: Duration,
    mut tell: impl FnMut(HostEvent) -> Result<(), E>,
) -> Result<(), E> {
    let not_running = || found.not_running(Status::Stopped);
    let container = found.attach()?.ok_or_else(not_running)?;
    let init = container.pidfd().ok_or_else(not_running)?;
    let cgroup = found.cgroup("events")?;
    let mut oom = cgroup.oom_watch().map_err(ProcessError::from)?;
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        match next_event(init, oom.as_ref(), left)? {
            Woken::Ended => return Ok(()),
            Woken::Oom => {
                let count = oom.as_mut().map_or(Ok(None), OomWatch::count);
                let count = count.map_err(ProcessError::host("can't count what ran out"))?;
                for _ in 0..count.unwrap_or(0) {
                    tell(HostEvent::Oom)?;
                }
                if count.is_none() {
                    // Only the init's end is left to wait for.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Ended,
    Oom,
    Tick,
}

/// Waits for whatever comes first. An out-of-memory event comes before the end that it may have
/// caused.
fn next_event(
    init: BorrowedFd<'_>,
    oom: Option<&OomWatch>,
    left: Duration,
) -> Result<Woken, ProcessError> {
    let mut interests = vec![Interest::readable(Woken::Ended, init)];
    interests.extend(oom.map(|oom| Interest::readable(Woken::Oom, oom.as_fd())));
    let events =
        wait(interests, Some(left)).map_err(ProcessError::host("can't wait for events"))?;
    let first = [Woken::Oom, Woken::Ended];
    let first = first.into_iter().find(|woken| events.has(*woken));
    Ok(first.unwrap_or(Woken::Tick))
}
