//! Why a command gets no answer from a container's sandbox process.

use std::time::Duration;

use nacre_agent::protocol;

use crate::isolation::vm::control::ControlError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens, or whoever did is gone: the container is ending, or has ended.
    #[error("the container's sandbox process is about to end, or has ended")]
    Gone,
    #[error(
        "the container's sandbox process is stopped (SIGSTOP): it answers once it goes on (SIGCONT)"
    )]
    Stopped,
    #[error("the container's sandbox process, or its guest, didn't answer within {} s", .0.as_secs())]
    Silent(Duration),
    #[error("can't speak with the container's sandbox process")]
    Io(#[source] std::io::Error),
    #[error("the container's sandbox process answered what wasn't asked")]
    Unasked,
    /// The reason, worded for whoever runs nacre.
    #[error("{}", .0.message)]
    Refused(protocol::Failure),
}

impl From<ControlError> for ClientError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Closed => Self::Gone,
            ControlError::Io(source) => Self::Io(source),
            ControlError::TooLong(_) | ControlError::Garbage(_) => Self::Unasked,
        }
    }
}
