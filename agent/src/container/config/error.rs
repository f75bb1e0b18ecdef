//! Errors of a configuration.

use crate::container::cgroups::CgroupError;
use crate::protocol::MAX_MESSAGE;

/// The longest `config.json` that is read, in bytes.
pub const MAX_SIZE: usize = MAX_MESSAGE;

/// An error in a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is longer than [`MAX_SIZE`].
    #[error("it has {0} bytes, over the limit of {MAX_SIZE}")]
    TooLarge(usize),
    /// It isn't JSON.
    #[error("it isn't valid JSON: {0}")]
    Json(#[source] JsonError),
    /// A field has an invalid value.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field's path, such as `process.rlimits[0].type`.
        field: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A required field is missing or empty.
    #[error("{field} is missing")]
    Missing {
        /// The field's path.
        field: String,
    },
    /// A field asks for something that isn't supported yet.
    #[error("{field} isn't supported yet")]
    Unsupported {
        /// The field's path.
        field: String,
    },
    /// An error in `linux.resources` or `linux.cgroupsPath`.
    #[error(transparent)]
    Resources(#[from] CgroupError),
}

/// A JSON syntax error and its position.
pub type JsonError = serde_json::Error;

impl ConfigError {
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError::Invalid {
            field: field.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn missing(field: impl Into<String>) -> Self {
        ConfigError::Missing {
            field: field.into(),
        }
    }

    pub(crate) fn unsupported(field: impl Into<String>) -> Self {
        ConfigError::Unsupported {
            field: field.into(),
        }
    }
}
