//! Why the settings for a container can't be read.

use std::{io, path::PathBuf};

use super::annotations::AnnotationError;

/// Why the configuration file can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("can't read the configuration file {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("configuration file {path}: {message}")]
    Parse { path: PathBuf, message: String },
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
}
