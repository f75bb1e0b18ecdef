//! `nacre events`: what a container uses in its guest and its VM on the host, and that either ran
//! out of memory.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use nacre_agent::{
    container::cgroups::{OomWatch, Stats},
    protocol::{Answer, Request},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};

use crate::state::Status;

use super::client::{Client, ClientError, TIMEOUT};
use crate::isolation::vm::{
    Found, VmError,
    control::poll_timeout,
    wire::{self, Ask},
};

/// What there is to tell of a container.
#[derive(Debug)]
pub(crate) enum Event {
    /// What it uses.
    Stats {
        /// In the guest.
        container: Box<Stats>,
        /// The sandbox process, with its guest's memory and QEMU, on the host.
        sandbox: Option<Box<Stats>>,
    },
    /// It ran out of memory.
    Oom,
    /// Its VM did, on the host.
    SandboxOom,
}

/// What a container uses now.
pub(crate) fn stats(found: &Found<'_>, status: Status) -> Result<Event, VmError> {
    if status == Status::Stopped {
        return Err(found.not_running(status));
    }
    let mut client = Client::connect(&found.folder)?;
    let id = found.record.id.clone();
    let answer = client.ask_guest(Request::Stats { id }, TIMEOUT)?;
    let Answer::Stats(container) = answer else {
        return Err(ClientError::Unasked.into());
    };
    let cgroup = found.vm.cgroup.as_ref();
    let sandbox = cgroup.map(|cgroup| cgroup.stats()).transpose()?;
    Ok(Event::Stats {
        container,
        sandbox: sandbox.map(Box::new),
    })
}

/// Tells of events until the container ends: what it uses after each `interval`, and that it, or
/// its VM, ran out of memory when that happens.
pub(crate) fn watch<E: From<VmError>>(
    found: &Found<'_>,
    status: Status,
    interval: Duration,
    mut tell: impl FnMut(Event) -> Result<(), E>,
) -> Result<(), E> {
    if status == Status::Stopped {
        return Err(found.not_running(status).into());
    }
    let mut client = Client::connect(&found.folder).map_err(VmError::from)?;
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
                tell(Event::Oom)?;
                continue;
            }
            Ok(Some(_)) => return Err(VmError::from(ClientError::Unasked).into()),
            Ok(None) => {}
            Err(ClientError::Gone) => return Ok(()),
            Err(error) => return Err(VmError::from(error).into()),
        }
        let left = next.saturating_duration_since(Instant::now());
        match wait(client.as_fd(), oom.as_ref(), left)? {
            Woken::Heard => {}
            Woken::SandboxOom => {
                let count = oom.as_mut().map_or(Ok(None), OomWatch::count);
                let count = count.map_err(VmError::host("can't count what ran out"))?;
                for _ in 0..count.unwrap_or(0) {
                    tell(Event::SandboxOom)?;
                }
                if count.is_none() {
                    // The container's end is what is left to wait for.
                    oom = None;
                }
            }
            Woken::Tick => {
                match stats(found, status) {
                    Ok(event) => tell(event)?,
                    // Its kernel stands still, or its end comes next.
                    Err(VmError::Client(ClientError::Refused(_) | ClientError::Gone)) => {}
                    Err(error) => return Err(error.into()),
                }
                next += interval;
            }
        }
    }
}

enum Woken {
    Heard,
    SandboxOom,
    Tick,
}

/// Waits for whatever comes first.
fn wait(client: BorrowedFd<'_>, oom: Option<&OomWatch>, left: Duration) -> Result<Woken, VmError> {
    let mut fds = vec![PollFd::new(client, PollFlags::POLLIN)];
    fds.extend(oom.map(|oom| PollFd::new(oom.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, poll_timeout(left)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(e) => return Err(VmError::host("can't wait for events")(e.into())),
    }
    let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any().unwrap_or(true));
    Ok(if ready(fds.get(1)) {
        Woken::SandboxOom
    } else if ready(fds.first()) {
        Woken::Heard
    } else {
        Woken::Tick
    })
}
