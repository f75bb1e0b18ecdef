//! Why the guest can't continue.

use std::io;
use std::path::PathBuf;

use nacre_agent::container::StepError;

/// Why the guest can't continue.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error("can't mount {what} at {at}")]
    Mount {
        what: &'static str,
        at: &'static str,
        source: io::Error,
    },
    #[error("can't mount what the host has mounted at {path}")]
    Shared { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Why the guest ends before the host ends it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("can't read a request of the host")]
    Receive(#[source] io::Error),
    #[error("can't send to the host")]
    Send(#[source] io::Error),
    #[error("can't poll")]
    Poll(#[source] io::Error),
}
