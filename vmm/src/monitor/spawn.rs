//! Makes the monitor's process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use super::confine::{self, Inheritance};
use super::handle::Monitor;
use super::serve::Line;
use crate::channel::Channel;
use crate::child::{self, pidfd};
use crate::config::VmConfig;
use crate::fork::fork;
use crate::violation;

/// Makes a process that makes the machine, and starts it when it is told to ([`Monitor::start`]).
/// `settle` comes first in it, while all of this process's descriptors are still open.
///
/// # Errors
///
/// The host's, if there can be no such process.
///
/// # Safety
///
/// As with fork(2): this process must have a single thread. And what the configuration consists of
/// mustn't be among what is closed.
pub unsafe fn spawn(
    inheritance: Inheritance,
    config: VmConfig,
    settle: impl FnOnce(),
) -> io::Result<Monitor> {
    let (channel, theirs) = Channel::pair()?;
    let (alive, their_life) = UnixStream::pair()?;
    let parent = pidfd(std::process::id())?;
    let begin = violation::now();
    let (hypervisor, user) = (config.hypervisor.clone(), config.user);
    // SAFETY: the caller's promise.
    let Some(child) = (unsafe { fork()? }) else {
        child::live(|| {
            // Otherwise the parent's end wouldn't be noticed here.
            drop((channel, alive));
            let line = Line {
                channel: theirs,
                alive: their_life,
            };
            become_monitor(inheritance, parent, line, config, settle)
        })
    };
    Ok(Monitor {
        channel,
        alive,
        child,
        hypervisor,
        user,
        begin,
        qemu: None,
        ended: OnceLock::new(),
        asked: AtomicU64::new(0),
    })
}

fn become_monitor(
    inheritance: Inheritance,
    parent: OwnedFd,
    line: Line,
    config: VmConfig,
    settle: impl FnOnce(),
) {
    let (user, largest_file) = (config.user, inheritance.largest_file);
    settle();
    let served = confine::begin(&parent, inheritance).and_then(|()| {
        drop(parent);
        line.serve(config, || confine::finish(user, largest_file))
    });
    if let Err(error) = served {
        tracing::warn!("the monitor: {error}");
    }
}
