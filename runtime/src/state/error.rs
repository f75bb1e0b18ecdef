//! Why the state of containers can't be read or changed.

use std::{io, path::PathBuf};

use nacre_agent::container::{cgroups::CgroupError, config::ConfigError};

use crate::id::{Id, IdError};

/// Why the state can't be read or changed. Callers search for runc's wording of the first two.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("container with given ID already exists: {0}")]
    InUse(Id),
    #[error("container does not exist: {0}")]
    NoContainer(Id),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("can't tell whether container {id} is paused")]
    Freezer {
        id: Id,
        #[source]
        source: Box<CgroupError>,
    },
    #[error("{what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}")]
    Config {
        path: PathBuf,
        #[source]
        source: Box<ConfigError>,
    },
    #[error("{path} isn't what nacre wrote")]
    Record {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}
