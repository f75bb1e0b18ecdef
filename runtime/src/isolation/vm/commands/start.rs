//! `nacre start`.

use std::time::Duration;

use crate::{
    isolation::{StatusError, hooks},
    state::Status,
};

use super::client::{Client, ClientError};
use crate::isolation::vm::{Found, VmError, wire::Ask};

/// How long a start may take without the hooks that are run in the guest, whose engine gives it
/// 60 s once the network is what it is on the host.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Lets a created container's workload go.
pub(crate) fn start(found: &Found<'_>, status: Status) -> Result<(), VmError> {
    match status {
        Status::Created => {}
        Status::Running => return Err(StatusError::AlreadyRunning.into()),
        Status::Stopped => return Err(StatusError::HasStopped.into()),
        Status::Creating | Status::Paused => return Err(StatusError::CannotStart(status).into()),
    }
    let timeout = timeout(found.vm.start_hooks);
    let started = Client::connect(&found.folder)
        .and_then(|mut client| client.ask(&Ask::Start, timeout))
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

/// The guest's engine gives up first, so that no container starts that was given up.
fn timeout(start_hooks: u64) -> Duration {
    TIMEOUT.saturating_add(Duration::from_secs(start_hooks))
}
