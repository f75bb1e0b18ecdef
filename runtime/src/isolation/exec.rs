//! A further process for a running container, as `nacre exec` asks for it.

use std::path::Path;

use oci_spec::runtime::Process;

use crate::state::Status;

use super::{status_error::StatusError, told::Told};

/// A process to start, besides what its `process` says.
#[derive(Debug)]
pub(crate) struct ExecRequest<'a> {
    pub(crate) process: &'a Process,
    /// Return once it runs.
    pub(crate) detach: bool,
    /// Who is to be told of the process.
    pub(crate) told: Told,
    pub(crate) console_socket: Option<&'a Path>,
    pub(crate) preserve_fds: u32,
    /// Cgroups below the container's, each with its controller, or an empty name for all.
    pub(crate) cgroups: Vec<(&'a str, &'a Path)>,
    pub(crate) ignore_paused: bool,
}

/// Returns `nacre exec`'s exit status for what another command would exit with `status` for: runc's
/// 255, which programs hardly use, unless `status` says that the program is missing.
pub(crate) fn exec_failed(status: u8) -> u8 {
    match status {
        0 | 1 => 255,
        status => status,
    }
}

impl ExecRequest<'_> {
    /// Checks that it can be started in a container with this status.
    pub(super) fn check(&self, status: Status) -> Result<(), StatusError> {
        match status {
            Status::Stopped | Status::Creating => Err(StatusError::ExecStopped),
            Status::Paused if !self.ignore_paused => Err(StatusError::ExecPaused),
            _ => Ok(()),
        }
    }
}
