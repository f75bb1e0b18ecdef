//! A container that isn't in the status that a command needs.

use crate::state::Status;

/// Why a command can't be carried out on a container that stands as it does. Callers look for
/// runc's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatusError {
    #[error("cannot start an already running container")]
    AlreadyRunning,
    #[error("cannot start a container that has stopped")]
    HasStopped,
    #[error("cannot start a container in the {0} state")]
    CannotStart(Status),
    #[error("container not running: {id} is {status}")]
    NotRunning { id: String, status: Status },
    #[error("cannot delete container {id} that is not stopped: {status}; --force ends it first")]
    NotStopped { id: String, status: Status },
    #[error("container not paused")]
    NotPaused,
    #[error("cannot exec in a stopped container")]
    ExecStopped,
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
}

/// What `nacre exec` exits with if it fails, which a program hardly does.
pub(crate) const EXEC_FAILED: u8 = 255;

impl StatusError {
    /// What the command exits with.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::ExecStopped | Self::ExecPaused => EXEC_FAILED,
            _ => 1,
        }
    }
}
