//! `nacre start`.

use std::time::Duration;

use crate::{
    isolation::{StatusError, hooks},
    state::Status,
};

use super::client::{Client, ClientError};
use crate::isolation::vm::{Found, VmError, wire::Ask};

/// How long a start may take, with the hooks that are run in the guest.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Lets a created container's workload go.
pub(crate) fn start(found: &Found<'_>, status: Status) -> Result<(), VmError> {
    match status {
        Status::Created => {}
        Status::Running => return Err(StatusError::AlreadyRunning.into()),
        Status::Stopped => return Err(StatusError::HasStopped.into()),
        Status::Creating | Status::Paused => return Err(StatusError::CannotStart(status).into()),
    }
    let started = Client::connect(&found.folder)
        .and_then(|mut client| client.ask(&Ask::Start, TIMEOUT))
        .map_err(|error| match error {
            ClientError::Gone => StatusError::HasStopped.into(),
            error => VmError::from(error),
        });
    started?;
    hooks::poststart(found.record).inspect_err(|_| {
        // The container is to be stopped then.
        let _ = super::kill(found, Status::Running, libc::SIGKILL, false);
    })?;
    Ok(())
}
