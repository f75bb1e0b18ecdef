//! `nacre pause` and `nacre resume`: the cgroup's freezer.

use crate::{isolation::StatusError, state::Status};

use super::{Found, ProcessError};

/// Stops all processes of a container that has some.
pub(crate) fn pause(found: &Found<'_>, status: Status) -> Result<(), ProcessError> {
    match status {
        Status::Created | Status::Running => Ok(found.cgroup("pause")?.freeze()?),
        status => Err(found.not_running(status)),
    }
}

/// Lets them go on.
pub(crate) fn resume(found: &Found<'_>, status: Status) -> Result<(), ProcessError> {
    match status {
        Status::Paused => Ok(found.cgroup("resume")?.thaw()?),
        _ => Err(StatusError::NotPaused.into()),
    }
}
