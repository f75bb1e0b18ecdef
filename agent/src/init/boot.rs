//! Sets the guest up, and serves the host until that hangs up.

use std::os::fd::OwnedFd;

use nacre_agent::container::{Step, bring_loopback_up, describe};
use nacre_agent::protocol::CONTROL_PORT;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::error::InitError;
use super::machine::Machine;
use super::{limits, log, mounts, power, server, vsock};

/// Runs the guest until the host hangs up, and then powers it off. An init that exited would be a
/// kernel panic.
pub(crate) fn run() -> ! {
    if std::process::id() != 1 {
        eprintln!("nacre-agent: it is the first process of nacre's guests, and of no use here");
        std::process::exit(2);
    }
    std::panic::set_hook(Box::new(|panic| log::error(&panic.to_string())));
    // A panic is caught here rather than handled in the hook: a container's init, which is forked
    // from this process, has the same hook and must not end the guest.
    if let Ok(Err(error)) = std::panic::catch_unwind(boot_and_serve) {
        log::error(&describe(&error));
    }
    power::off()
}

fn boot_and_serve() -> Result<(), InitError> {
    mounts::assemble()?;
    limits::raise().step(|| "raise the guest's limits")?;
    limits::take_precedence().step(|| "take precedence over workloads")?;
    bring_loopback_up().step(|| "bring the loopback interface up")?;
    let children = watch_children().step(|| "watch for processes that end")?;
    // Before any workload runs, since it could connect too: the host accepts one connection.
    let control = vsock::connect_to_host(CONTROL_PORT).step(|| "connect to the host")?;
    Ok(server::serve(Machine::default(), control, children)?)
}

/// Returns a descriptor that is readable when a child process has ended.
fn watch_children() -> nix::Result<OwnedFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&signals, flags)?.into())
}
