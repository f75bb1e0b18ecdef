//! `nacre start`.

use nacre_agent::container::StartError;
use nacre_vmm::phase;

use crate::{isolation::status_error::StatusError, state::Status};

use super::{error::ProcessError, found::HostContainer};

/// Starts a created container's workload.
pub(crate) fn start(found: &HostContainer<'_>, status: Status) -> Result<(), ProcessError> {
    // Its frozen init couldn't answer.
    if status == Status::Paused {
        return Err(StatusError::CannotStart(status).into());
    }
    let mut container = found.attach()?.ok_or(StatusError::HasStopped)?;
    if container.pidfd().is_none() {
        return Err(StatusError::HasStopped.into());
    }
    container.start().map_err(|error| match error {
        StartError::AlreadyStarted => ProcessError::from(StatusError::AlreadyRunning),
        error => error.into(),
    })?;
    tracing::debug!("container {}: started", found.record.id);
    phase::ended("exec");
    Ok(())
}
