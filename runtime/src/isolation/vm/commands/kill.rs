//! `nacre kill`: a signal to a container's first process, or to all of them.

use nacre_agent::protocol::{Request, Target};

use crate::state::Status;

use super::client::{Client, ClientError, TIMEOUT};
use crate::isolation::vm::{Found, VmError};

/// Sends a signal, by number, to the first process, or to `all`. The guest gets it from the
/// sandbox process, which sees to it that SIGKILL ends the container even if the guest doesn't.
pub(crate) fn kill(
    found: &Found<'_>,
    status: Status,
    signal: i32,
    all: bool,
) -> Result<(), VmError> {
    match status {
        // Of all its processes there is none left, which isn't an error.
        Status::Stopped if all => return Ok(()),
        Status::Stopped => return Err(found.not_running(status)),
        // There is no process of the container's yet.
        Status::Creating => return found.signal_sandbox(signal),
        Status::Created | Status::Running | Status::Paused => {}
    }
    let request = Request::Signal {
        id: found.record.id.clone(),
        signal,
        to: match all {
            true => Target::All,
            false => Target::First,
        },
    };
    let asked =
        Client::connect(&found.folder).and_then(|mut client| client.ask_guest(request, TIMEOUT));
    match asked {
        Ok(_) => Ok(()),
        Err(ClientError::Gone) => Err(found.not_running(Status::Stopped)),
        Err(ClientError::Silent(_) | ClientError::Io(_)) if signal == libc::SIGKILL => {
            found.signal_sandbox(signal)
        }
        Err(error) => Err(error.into()),
    }
}

/// Kills a container that is to be deleted, without waiting for its end: its guest as a rule, so
/// that what the workload has written gets to the host; as the last resort the sandbox process.
pub(crate) fn end(found: &Found<'_>, status: Status, as_last_resort: bool) -> Result<(), VmError> {
    if as_last_resort || status == Status::Creating {
        return ignore_end(found.signal_sandbox(libc::SIGKILL));
    }
    ignore_end(kill(found, status, libc::SIGKILL, false))
}

/// It may end by itself meanwhile, and then there is nothing to kill.
fn ignore_end(killed: Result<(), VmError>) -> Result<(), VmError> {
    match killed {
        Err(VmError::Status(_)) => Ok(()),
        other => other,
    }
}
