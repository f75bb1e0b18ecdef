//! From the kernel's handover to the power-off.

mod limits;
mod log;
mod machine;
mod mounts;
mod networks;
mod nic;
mod overlay;
mod power;
mod processes;
mod relay;
mod server;
mod terminal;
mod vsock;

use std::io;
use std::os::fd::OwnedFd;

use nacre_agent::container::{bring_loopback_up, describe};
use nacre_agent::protocol::CONTROL_PORT;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use machine::Machine;
use server::{Ended, ServeError};

/// Why the guest can't go on.
#[derive(Debug, thiserror::Error)]
enum InitError {
    #[error("can't mount {what} at {at}")]
    Mount {
        what: &'static str,
        at: &'static str,
        source: io::Error,
    },
    #[error("can't {step}")]
    Step {
        step: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Names the step that a kernel call was for.
trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, InitError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, InitError> {
        self.map_err(|source| InitError::Step {
            step,
            source: source.into(),
        })
    }
}

/// Runs the guest until the host has no more use for it, and then powers it off. An init
/// that ended would be a kernel panic.
pub(crate) fn run() -> ! {
    if std::process::id() != 1 {
        eprintln!("nacre-agent: it is the first process of nacre's guests, and of no use here");
        std::process::exit(2);
    }
    std::panic::set_hook(Box::new(|panic| log::error(&panic.to_string())));
    // A panic is caught rather than acted upon in the hook: a container's init, which is
    // forked from this process, has the same hook and must not end the guest.
    if let Ok(Err(error)) = std::panic::catch_unwind(boot_and_serve) {
        log::error(&describe(&error));
    }
    power::off()
}

fn boot_and_serve() -> Result<Ended, InitError> {
    mounts::assemble()?;
    limits::raise().step("raise the guest's limits")?;
    limits::take_precedence().step("take precedence over workloads")?;
    bring_loopback_up().step("bring the loopback interface up")?;
    let children = watch_children().step("watch for processes that end")?;
    // Before any workload runs, which could connect too: the host takes one connection.
    let control = vsock::connect_to_host(CONTROL_PORT).step("connect to the host")?;
    Ok(server::serve(Machine::default(), control, children)?)
}

/// A descriptor that is readable when a child process has ended.
fn watch_children() -> nix::Result<OwnedFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&signals, flags)?.into())
}
