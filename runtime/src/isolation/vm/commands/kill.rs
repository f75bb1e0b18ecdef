//! `nacre kill`: a signal to a container's first process, or to all of them.

use std::time::Duration;

use nacre_agent::protocol::Target;

use crate::{
    isolation::{
        Recipients,
        vm::{
            error::{ClientError, VmError},
            found::VmContainer,
            wire::GuestAsk,
        },
    },
    state::Status,
};

use super::client::Client;

/// How long a sandbox process may take to take a signal. One that is stopped gets it later, as
/// other processes do, except SIGKILL.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Sends a signal, by number. The guest gets it from the sandbox
/// process, which makes sure that SIGKILL ends the container even if the guest doesn't.
pub(crate) fn kill(
    found: &VmContainer<'_>,
    status: Status,
    signal: i32,
    to: Recipients,
) -> Result<(), VmError> {
    match status {
        // There is no process left to signal, which isn't an error.
        Status::Stopped if to == Recipients::All => return Ok(()),
        Status::Stopped => return Err(found.not_running(status)),
        // The container has no process yet.
        Status::Creating => return found.signal_sandbox(signal),
        Status::Created | Status::Running | Status::Paused => {}
    }
    let to = match to {
        Recipients::First => Target::First,
        Recipients::All => Target::All,
    };
    let ask = GuestAsk::Signal { signal, to };
    if signal == libc::SIGKILL {
        found.thaw();
    }
    let asked =
        Client::connect(&found.folder).and_then(|mut client| client.ask_guest(ask, TIMEOUT));
    match asked {
        Ok(_) => Ok(()),
        Err(ClientError::Gone) => Err(found.not_running(Status::Stopped)),
        Err(ClientError::Silent(_) | ClientError::Io(_)) if signal == libc::SIGKILL => {
            found.signal_sandbox(signal)
        }
        Err(ClientError::Silent(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Kills a container that is to be deleted, without waiting for its end: in its guest, so that what
/// the workload has written gets to the host.
pub(crate) fn end(found: &VmContainer<'_>, status: Status) -> Result<(), VmError> {
    if status == Status::Creating {
        return end_as_last_resort(found);
    }
    ignore_end(kill(found, status, libc::SIGKILL, Recipients::First))
}

/// Kills a container by its sandbox process, whatever becomes of what it has written.
pub(crate) fn end_as_last_resort(found: &VmContainer<'_>) -> Result<(), VmError> {
    ignore_end(found.signal_sandbox(libc::SIGKILL))
}

/// Ignores that a container has ended by itself meanwhile: then there is nothing to kill.
fn ignore_end(killed: Result<(), VmError>) -> Result<(), VmError> {
    match killed {
        Err(VmError::Status(_)) => Ok(()),
        other => other,
    }
}
