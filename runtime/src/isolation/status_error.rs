//! The error of a command that a container's status doesn't allow.

use crate::state::Status;

/// Why a container's status doesn't allow a command. Callers look for runc's words.
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
