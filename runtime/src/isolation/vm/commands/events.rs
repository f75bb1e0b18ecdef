//! `nacre events`: what a container uses in its guest and its VM on the host, and when either ran
//! out of memory.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nacre_agent::{
    container::cgroups::{OomWatch, Stats},
    protocol::Answer,
};

use crate::{
    isolation::{
        vm::{
            error::{ClientError, VmError},
            found::VmContainer,
            wire::{self, Ask, GuestAsk},
        },
        wait::{Interest, wait},
    },
    state::Status,
};

use super::client::TIMEOUT;

/// An event of a container.
#[derive(Debug)]
pub(crate) enum VmEvent {
    /// What the container uses.
    Stats {
        /// In the guest.
        container: Box<Stats>,
        /// The sandbox process, with its guest's memory and QEMU, on the host.
        sandbox: Option<Box<Stats>>,
    },
    /// The container ran out of memory.
    Oom,
    /// Its VM ran out of memory, on the host.
    SandboxOom,
}

/// Returns what a container uses at present.
pub(crate) fn stats(found: &VmContainer<'_>, status: Status) -> Result<VmEvent, VmError> {
    if status == Status::Stopped {
        return Err(found.not_running(status));
    }
    let mut client = found.connect()?;
    let answer = client.ask_guest(GuestAsk::Stats, TIMEOUT)?;
    let Answer::Stats(container) = answer else {
        return Err(ClientError::Unasked.into());
    };
    let cgroup = found.vm.cgroup.as_ref();
    let sandbox = cgroup.map(|cgroup| cgroup.stats()).transpose()?;
    Ok(VmEvent::Stats {
        container,
        sandbox: sandbox.map(Box::new),
    })
}

/// Reports events until the container ends: what it uses, after each `interval`, and when it or its
/// VM runs out of memory.
pub(crate) fn watch<E: From<VmError>>(
    found: &VmContainer<'_>,
    status: Status,
    interval: Duration,
    mut tell: impl FnMut(VmEvent) -> Result<(), E>,
) -> Result<(), E> {
    if status == Status::Stopped {
        return Err(found.not_running(status).into());
    }
    let mut client = found.connect().map_err(VmError::from)?;
    client.ask(&Ask::Watch, TIMEOUT).map_err(VmError::from)?;
    let cgroup = found.vm.cgroup.as_ref();
    let mut oom = match cgroup.map(|cgroup| cgroup.oom_watch()).transpose() {
        Ok(oom) => oom.flatten(),
        Err(error) => return Err(VmError::from(error).into()),
    };
    let mut next = Instant::now() + interval;
    loop {
        match client.answer() {
            Ok(Some(wire::Answer::OutOfMemory)) => {
                tell(VmEvent::Oom)?;
                continue;
            }
            Ok(Some(_)) => return Err(VmError::from(ClientError::Unasked).into()),
            Ok(None) => {}
            Err(ClientError::Gone) => return Ok(()),
            Err(error) => return Err(VmError::from(error).into()),
        }
        let left = next.saturating_duration_since(Instant::now());
        match next_event(client.as_fd(), oom.as_ref(), left)? {
            Woken::Heard => {}
            Woken::SandboxOom => {
                let count = oom.as_mut().map_or(Ok(None), OomWatch::count);
                let count = count.map_err(VmError::host("can't count what ran out"))?;
                for _ in 0..count.unwrap_or(0) {
                    tell(VmEvent::SandboxOom)?;
                }
                if count.is_none() {
                    // Only the container's end is left to wait for.
                    oom = None;
                }
            }
            Woken::Tick => {
                match stats(found, status) {
                    Ok(event) => tell(event)?,
                    // The guest is paused, or its end comes next.
                    Err(VmError::Client(ClientError::Refused(_) | ClientError::Gone)) => {}
                    Err(error) => return Err(error.into()),
                }
                next += interval;
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Heard,
    SandboxOom,
    Tick,
}

/// Waits for whatever comes first.
fn next_event(
    client: BorrowedFd<'_>,
    oom: Option<&OomWatch>,
    left: Duration,
) -> Result<Woken, VmError> {
    let mut interests = vec![Interest::readable(Woken::Heard, client)];
    interests.extend(oom.map(|oom| Interest::readable(Woken::SandboxOom, oom.as_fd())));
    let events = wait(interests, Some(left))
        .map_err(|e| VmError::host("can't wait for events")(e.into()))?;
    // After the sandbox process has hung up, an OOM in its cgroup only shows others its guest's.
    let first = [Woken::Heard, Woken::SandboxOom];
    let first = first.into_iter().find(|woken| events.has(*woken));
    Ok(first.unwrap_or(Woken::Tick))
}
