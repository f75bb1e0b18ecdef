//! `nacre pause` and `nacre resume`, by the cgroup's freezer.

use crate::{isolation::status_error::StatusError, state::Status};

use super::{error::ProcessError, found::HostContainer};

/// Stops all processes of a container that has some.
pub(crate) fn pause(found: &HostContainer<'_>, status: Status) -> Result<(), ProcessError> {
    match status {
        Status::Created | Status::Running => Ok(found.cgroup("pause")?.freeze()?),
        status => Err(found.not_running(status)),
    }
}

/// Lets its processes go on.
pub(crate) fn resume(found: &HostContainer<'_>, status: Status) -> Result<(), ProcessError> {
    match status {
        Status::Paused => Ok(found.cgroup("resume")?.thaw()?),
        _ => Err(StatusError::NotPaused.into()),
    }
}
