//! `nacre start`.

use nacre_agent::container::StartError;

use crate::{
    isolation::{StatusError, hooks},
    state::Status,
};

use super::{Found, ProcessError};

/// Lets a created container's workload go.
pub(crate) fn start(found: &Found<'_>, status: Status) -> Result<(), ProcessError> {
    // Its init couldn't answer.
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
    hooks::poststart(found.record).inspect_err(|_| {
        // The container is to be stopped then.
        let _ = container.signal(libc::SIGKILL);
    })?;
    Ok(())
}
