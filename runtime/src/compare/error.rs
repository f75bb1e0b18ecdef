//! Why two modes can't be compared.

use std::{io, path::PathBuf};

use crate::{config::bundle::BundleError, id::IdError, state::StateError};

/// Why a comparison ended without a result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    #[error(
        "nacre compare needs root: it mounts an overlay over the bundle's root for each run, so \
         that each finds it unchanged"
    )]
    NotRoot,
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{0}")]
    Config(&'static str),
    #[error("can't {what} {path}")]
    Workspace {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't {what}")]
    Host {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("with --isolation={isolation}, nacre {command} failed: {said}")]
    Command {
        isolation: &'static str,
        command: &'static str,
        said: String,
    },
    #[error("with --isolation={isolation}, nacre {command} took longer than {seconds} s")]
    Slow {
        isolation: &'static str,
        command: &'static str,
        seconds: u64,
    },
    #[error("with --isolation={isolation}, the probe failed: {said}")]
    Probe {
        isolation: &'static str,
        said: String,
    },
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
}

impl CompareError {
    /// Returns a function that adds what couldn't be done to an error of the system.
    pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }

    /// Returns a function that adds what couldn't be done to which path.
    pub(super) fn workspace(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Workspace { what, path, source }
    }

    /// Returns what the command exits with: 128+n for a signal that ended it.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Interrupted(signal) => 128 + *signal as u8,
            _ => 1,
        }
    }
}
