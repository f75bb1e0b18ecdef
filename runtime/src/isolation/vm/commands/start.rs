//! `nacre start`.

use std::time::Duration;

use crate::{
    isolation::{
        status_error::StatusError,
        vm::{
            error::{ClientError, VmError},
            found::VmContainer,
            wire::Ask,
        },
    },
    state::Status,
};

/// How long a start may take, not counting the hooks that run in the guest: its engine gives it 60
/// s once the network is as it is on the host.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Starts a created container's workload.
pub(crate) fn start(found: &VmContainer<'_>, status: Status) -> Result<(), VmError> {
    match status {
        Status::Created => {}
        Status::Running => return Err(StatusError::AlreadyRunning.into()),
        Status::Stopped => return Err(StatusError::HasStopped.into()),
        Status::Creating | Status::Paused => return Err(StatusError::CannotStart(status).into()),
    }
    let timeout = timeout(found.vm.start_hooks);
    found
        .connect()
        .and_then(|mut client| client.ask(&Ask::Start, timeout))
        .map(drop)
        .map_err(|error| match error {
            ClientError::Gone => StatusError::HasStopped.into(),
            error => VmError::from(error),
        })
}

/// Returns how long to wait. The guest's engine gives up first, so that no container starts that
/// was given up.
fn timeout(start_hooks: u64) -> Duration {
    TIMEOUT.saturating_add(Duration::from_secs(start_hooks))
}
