//! Every way in which a command can fail, and the exit status that each gives.

use std::{io, path::PathBuf};

use nacre_agent::container::hooks::HookError;

use crate::{compare::CompareError, config, id::IdError, isolation, log, state};

use super::{exec_process::ExecProcessError, update_resources::ResourcesError};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error(transparent)]
    Log(#[from] log::LogError),
    #[error(transparent)]
    Settings(#[from] config::ConfigError),
    #[error(transparent)]
    Bundle(#[from] config::bundle::BundleError),
    #[error(transparent)]
    State(#[from] state::StateError),
    #[error(transparent)]
    Remains(#[from] isolation::remains::RemainsError),
    #[error(transparent)]
    Status(#[from] isolation::StatusError),
    #[error(transparent)]
    Isolation(#[from] config::LessIsolation),
    #[error(transparent)]
    Vm(#[from] isolation::vm::VmError),
    #[error(transparent)]
    Process(#[from] isolation::process::ProcessError),
    #[error("the workload can't be watched")]
    Compare(#[from] CompareError),
    #[error(
        "the container {0} has no kernel of its own, whose log could be shown; the host's is shown by dmesg"
    )]
    NoOwnKernel(crate::id::Id),
    #[error("can't find nacre's own program, which is to be run")]
    NoProgram,
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("can't keep nacre's own program out of the container's reach")]
    Executable(#[source] io::Error),
    #[error("nacre {0} can't be done with --isolation=vm: CRIU reads processes of its own kernel")]
    NotInVm(&'static str),
    #[error("exec failed")]
    Exec(#[from] ExecProcessError),
    #[error(transparent)]
    Resources(#[from] ResourcesError),
    #[error("unknown signal {0:?}")]
    UnknownSignal(String),
    #[error("{path} exists already; nacre spec doesn't overwrite it")]
    SpecExists { path: PathBuf },
    #[error("can't write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't write to standard output")]
    Output(#[source] io::Error),
    #[error("container {id} is in another command's hands, which isn't done after {seconds} s")]
    Busy { id: String, seconds: u64 },
}

impl Error {
    /// Returns what the command exits with ([`isolation::exec_failed`] if it is `exec`): 127 and
    /// 126 for a program that doesn't exist or can't be executed, 128+n for a signal that ended the
    /// start, 1 for everything else.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Vm(error) => error.exit_status(),
            Self::Process(error) => error.exit_status(),
            Self::Compare(error) => error.exit_status(),
            _ => 1,
        }
    }
}
