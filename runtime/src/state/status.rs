//! A container's status.

use std::fmt;

use oci_spec::runtime::ContainerState;
use serde::Serialize;

/// A container's status (OCI runtime spec, runtime.md, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl From<Status> for ContainerState {
    /// For hooks and the like, which know only these statuses.
    fn from(status: Status) -> Self {
        match status {
            Status::Creating => Self::Creating,
            Status::Created => Self::Created,
            Status::Running | Status::Paused => Self::Running,
            Status::Stopped => Self::Stopped,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}
