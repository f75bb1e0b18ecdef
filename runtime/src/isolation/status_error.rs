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
