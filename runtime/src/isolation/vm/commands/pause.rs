//! `nacre pause` and `nacre resume`: the vCPUs are stopped, and go on.

use crate::{isolation::StatusError, state::Status};

use super::client::{Client, ClientError, TIMEOUT};
use crate::isolation::vm::{Found, VmError, wire::Ask};

/// Stops the machine of a container that has processes.
pub(crate) fn pause(found: &Found<'_>, status: Status) -> Result<(), VmError> {
    match status {
        Status::Created | Status::Running => ask(found, &Ask::Pause),
        status => Err(found.not_running(status)),
    }
}

/// Lets it go on.
pub(crate) fn resume(found: &Found<'_>, status: Status) -> Result<(), VmError> {
    match status {
        Status::Paused => ask(found, &Ask::Resume),
        _ => Err(StatusError::NotPaused.into()),
    }
}

fn ask(found: &Found<'_>, ask: &Ask) -> Result<(), VmError> {
    match Client::connect(&found.folder).and_then(|mut client| client.ask(ask, TIMEOUT)) {
        Ok(_) => Ok(()),
        Err(ClientError::Gone) => Err(found.not_running(Status::Stopped)),
        Err(error) => Err(error.into()),
    }
}
