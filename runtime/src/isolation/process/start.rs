//! `nacre start`.

use std::path::Path;

use nacre_agent::container::StartError;

use crate::state::record;

use super::{ProcessError, attach};

/// Lets a created container's workload go.
pub(crate) fn start(process: &record::Process, folder: &Path) -> Result<(), ProcessError> {
    let mut container = attach(process, folder)?.ok_or(ProcessError::HasStopped)?;
    if container.pidfd().is_none() {
        return Err(ProcessError::HasStopped);
    }
    container.start().map_err(|error| match error {
        StartError::AlreadyStarted => ProcessError::AlreadyRunning,
        error => error.into(),
    })
}
