//! Why there is no stand-in.

use std::io;

use nacre_agent::container::IdMapError;

/// Why there is no stand-in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StandInError {
    #[error("can't {step}, for the process that stands for the container")]
    Step {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Ids(#[from] IdMapError),
    #[error("can't show {what} to the process that stands for the container")]
    View {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("the process that stands for the container can't {0}")]
    GaveUp(String),
    #[error("the process that stands for the container has ended")]
    Gone,
    #[error("the process that stands for the container doesn't answer")]
    Silent,
}

/// Wraps an error with the step that failed.
pub(super) fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> StandInError {
    move |source| StandInError::Step {
        step,
        source: source.into(),
    }
}
