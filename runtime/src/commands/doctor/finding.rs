//! What a check of this host found.

use serde::Serialize;

/// The result of a check.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// Its stable name, for programs.
    pub(super) name: &'static str,
    pub(super) level: Level,
    pub(super) message: String,
    /// What to do about it.
    pub(super) remedy: Option<&'static str>,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be, or unimportant.
    Ok,
    /// It works, but not well or not completely.
    Warning,
    /// The isolation that it concerns isn't available.
    Error,
}

impl Finding {
    pub(super) fn ok(name: &'static str, message: impl Into<String>) -> Self {
        Self {
            name,
            level: Level::Ok,
            message: message.into(),
            remedy: None,
        }
    }

    pub(super) fn warning(
        name: &'static str,
        message: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            level: Level::Warning,
            remedy: Some(remedy),
            ..Self::ok(name, message)
        }
    }

    pub(super) fn error(
        name: &'static str,
        message: impl Into<String>,
        remedy: &'static str,
    ) -> Self {
        Self {
            level: Level::Error,
            remedy: Some(remedy),
            ..Self::ok(name, message)
        }
    }
}
