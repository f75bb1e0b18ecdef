//! Why CRIU couldn't checkpoint or restore a container.

use std::{io, path::PathBuf, process::ExitStatus};

use crate::state::Status;

/// Why a container wasn't checkpointed or restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CriuError {
    #[error("can't run CRIU as {program:?}; install it, or say with --criu where it is")]
    Missing {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("CRIU failed ({status}): {said}; log file: {log}")]
    Failed {
        status: ExitStatus,
        said: String,
        log: PathBuf,
    },
    #[error("can't use the directory {path} for the image files")]
    Images {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't use the directory {path} for CRIU's working files")]
    Work {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("--parent-path {path} {problem}")]
    Parent {
        path: PathBuf,
        problem: &'static str,
    },
    #[error("container cannot be checkpointed in {0} state")]
    Status(Status),
    #[error("--page-server {0:?} isn't ADDRESS:PORT")]
    PageServer(String),
    #[error("process.terminal: a container with a terminal can't be restored")]
    Terminal,
    #[error("{path} isn't what nacre checkpoint wrote")]
    Descriptors {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("CRIU wrote no pid of the restored container to {0}")]
    NoPid(PathBuf),
}
