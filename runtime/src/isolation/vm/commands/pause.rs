//! `nacre pause` and `nacre resume`: they stop the vCPUs, and let them go on.

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

use super::client::TIMEOUT;

/// Stops the machine of a container that has processes.
pub(crate) fn pause(found: &VmContainer<'_>, status: Status) -> Result<(), VmError> {
    match status {
        Status::Created | Status::Running => ask(found, &Ask::Pause),
        status => Err(found.not_running(status)),
    }
}

/// Lets the machine go on.
pub(crate) fn resume(found: &VmContainer<'_>, status: Status) -> Result<(), VmError> {
    match status {
        Status::Paused => {
            found.thaw();
            if found.vm.paused {
                ask(found, &Ask::Resume)
            } else {
                Ok(())
            }
        }
        _ => Err(StatusError::NotPaused.into()),
    }
}

fn ask(found: &VmContainer<'_>, ask: &Ask) -> Result<(), VmError> {
    match found
        .connect()
        .and_then(|mut client| client.ask(ask, TIMEOUT))
    {
        Ok(_) => Ok(()),
        Err(ClientError::Gone) => Err(found.not_running(Status::Stopped)),
        Err(error) => Err(error.into()),
    }
}
