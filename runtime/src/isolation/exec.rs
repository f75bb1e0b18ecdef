//! A further process for a container that runs, as `nacre exec` asks for it.

use std::path::Path;

use oci_spec::runtime::Process;

use crate::state::Status;

use super::StatusError;

/// A process to be started, besides what its `process` says.
#[derive(Debug)]
pub(crate) struct ExecRequest<'a> {
    pub(crate) process: &'a Process,
    /// Return once it runs.
    pub(crate) detach: bool,
    pub(crate) pid_file: Option<&'a Path>,
    pub(crate) console_socket: Option<&'a Path>,
    pub(crate) preserve_fds: u32,
    /// Cgroups below the container's, each with its controller, or an empty name for all.
    pub(crate) cgroups: Vec<(&'a str, &'a Path)>,
    pub(crate) ignore_paused: bool,
}

/// What `nacre exec` exits with if it fails for what another command would exit with `status`. As
/// runc has it, which a program hardly exits with, except that the program's absence can be told.
pub(crate) fn exec_failed(status: u8) -> u8 {
    match status {
        0 | 1 => 255,
        status => status,
    }
}

impl ExecRequest<'_> {
    /// Whether it can be started in a container that stands so.
    pub(super) fn check(&self, status: Status) -> Result<(), StatusError> {
        match status {
            Status::Stopped | Status::Creating => Err(StatusError::ExecStopped),
            Status::Paused if !self.ignore_paused => Err(StatusError::ExecPaused),
            _ => Ok(()),
        }
    }
}
