//! Why a container wasn't created.

use std::io;
use std::path::PathBuf;

use crate::container::cgroups::CgroupError;
use crate::container::config::ConfigError;
use crate::container::error::{HookError, InitError, StepError, describe};
use crate::container::namespaces::entry::NamespaceError;
use crate::container::namespaces::id_map::IdMapError;
use crate::container::namespaces::net_devices::NetDeviceError;
use crate::container::process::terminal::ConsoleSocketError;
use crate::container::seccomp::ListenerError;

/// Why a container wasn't created. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The configuration can't be honoured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `root.path` isn't a usable directory.
    #[error("root.path {}", path.display())]
    Root {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A namespace can't be made or joined.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The ids of its user namespace can't be mapped as asked.
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    /// The cgroup can't be made, or not with these limits.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The console socket can't be used, or isn't needed.
    #[error(transparent)]
    ConsoleSocket(#[from] ConsoleSocketError),
    /// One of the descriptors to preserve isn't one that the caller was given.
    #[error("descriptor {0}, which is to be preserved, isn't one that this program was given")]
    Descriptor(u32),
    /// The seccomp filter has no listener that can be reached.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// A device of `linux.netDevices` can't be moved to it.
    #[error(transparent)]
    NetDevice(#[from] NetDeviceError),
    /// The init can't be started.
    #[error(transparent)]
    Start(#[from] StepError),
    /// A hook of the caller's namespaces failed. The init reports those of the container's.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The init couldn't set the container up.
    #[error("{message}")]
    Init {
        /// The init's error message.
        message: String,
        /// What [`CreateError::exit_status`] returns.
        status: u8,
    },
    /// The memory limit is too low even for the init.
    #[error("the container's init was OOM-killed (is the memory limit too low?)")]
    OomKilled,
    /// The init ended without a report.
    #[error("the container's init ended before it was ready: {0}")]
    Died(String),
    /// The init wasn't ready in time.
    #[error("the container's init isn't ready after {0} s")]
    TimedOut(u64),
}

impl CreateError {
    /// Returns the exit status for a runtime's command: 127 if the program doesn't exist, 126 if it
    /// can't be executed, 1 for anything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            CreateError::Init { status, .. } => *status,
            _ => 1,
        }
    }

    /// Whether the container's first process existed already, so that hooks may have run: the
    /// `poststop` ones are due then.
    pub fn had_begun(&self) -> bool {
        matches!(
            self,
            CreateError::Hook(_)
                | CreateError::Listener(_)
                | CreateError::Init { .. }
                | CreateError::OomKilled
                | CreateError::Died(_)
                | CreateError::TimedOut(_)
        )
    }
}

impl From<InitError> for CreateError {
    fn from(error: InitError) -> Self {
        CreateError::Init {
            message: describe(&error),
            status: error.exit_status(),
        }
    }
}
