//! The error of a mount in a container.

use std::path::PathBuf;

use super::chain::describe;
use super::step::StepError;

/// Why a mount couldn't be made.
#[derive(Debug, thiserror::Error)]
#[error("mounts[{index}] at {}: {problem}", destination.display())]
pub(crate) struct MountError {
    pub(crate) index: usize,
    pub(crate) destination: PathBuf,
    pub(crate) problem: MountProblem,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MountProblem {
    #[error("{}", describe(.0))]
    Step(#[from] StepError),
    #[error("{kind}: {reason}")]
    FileSystem { kind: String, reason: String },
    #[error("the destination of a {} mount must be a directory, and no symbolic link",
        if kind.is_empty() { "bind" } else { kind })]
    NotPlain { kind: String },
    #[error("nothing may be mounted there: it is inside of /proc")]
    InsideProc,
    #[error("only a proc file system may be mounted there")]
    NotProc,
    #[error("nothing is mounted there that could be remounted")]
    NotMounted,
}
