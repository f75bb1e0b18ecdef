//! What can go wrong with a container on the host's kernel.

use std::{io, process::ExitStatus};

use nacre_agent::container::{
    CreateError, ExecError, StartError, cgroups::CgroupError, hooks::HookError,
};

use crate::{
    isolation::{
        console::ConsoleError, remains::RemainsError, status_error::StatusError, told::ToldError,
    },
    state::StateError,
    systemd::SystemdError,
};

use super::criu_error::CriuError;

/// Why a command failed on a container on the host's kernel. Callers look for runc's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Remains(#[from] RemainsError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("unable to start container process")]
    Create(#[from] CreateError),
    #[error("unable to start container process")]
    Start(#[from] StartError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Criu(#[from] CriuError),
    #[error(transparent)]
    Told(#[from] ToldError),
    #[error("exec failed: unable to start container process")]
    Exec(#[from] ExecError),
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error("--preserve-fds: with those of LISTEN_FDS it is too many")]
    TooManyDescriptors,
    #[error("no cgroup can be made for the container, and --rootless=false says that it needs one")]
    MustHaveCgroup,
    #[error("container {id} has no cgroup, without which {command} can't be done")]
    NoCgroup { id: String, command: &'static str },
    #[error("can't run ps, which makes the table")]
    Ps(#[source] io::Error),
    #[error("ps {status}: {message}")]
    PsFailed { status: ExitStatus, message: String },
    #[error("couldn't find PID field in ps output")]
    NoPidInPs,
    #[error("{what}")]
    Host {
        what: &'static str,
        #[source]
        source: io::Error,
    },
}

impl ProcessError {
    /// Returns the command's exit status.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Create(error) => error.exit_status(),
            Self::Start(error) => error.exit_status(),
            Self::Exec(error) => error.exit_status(),
            _ => 1,
        }
    }

    pub(super) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host {
            what,
            source: source.into(),
        }
    }
}
