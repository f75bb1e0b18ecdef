//! The error of a container's init.

use std::io;

use super::hook::HookError;
use super::mount::MountError;
use super::program::ProgramError;
use super::step::StepError;

/// A step of the container's set-up that failed in its init.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("/proc is not a proc file system, so nothing is written below it")]
    NotProc,
    #[error("{path:?} is there already, and is not the device that it should be")]
    NotThatDevice { path: String },
    #[error(
        "process.terminal: /dev/pts in the container isn't a devpts file system; mount one \
         there (mounts)"
    )]
    NotDevpts,
    #[error("process.terminal: /dev/console in the container is a symbolic link")]
    ConsoleIsLink,
    #[error("linux.{field}: the user namespace that the container joins has other mappings")]
    OtherMappings { field: &'static str },
    #[error(
        "process.user.additionalGids can't be set: in this user namespace no groups can (its \
         setgroups is denied, as it must be where an ordinary user maps its own id alone)"
    )]
    GroupsDenied,
    #[error(
        "hooks.createContainer: they would be run where other containers could look into them, \
         since the container's user namespace has no right to the pid namespace that it joins"
    )]
    HooksSeen,
    #[error("the engine is gone")]
    EngineGone,
    #[error("process.cwd {path:?} is outside the container's root")]
    CwdOutside { path: String },
    #[error("process.capabilities: {name} can't be given, the runtime itself doesn't have it")]
    CapabilityNotHeld { name: String },
    #[error("{field}: can't set {value:?}")]
    Label {
        field: &'static str,
        value: String,
        source: io::Error,
    },
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Program(#[from] ProgramError),
}

impl InitError {
    /// Returns the exit status of a runtime's command for this error.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            InitError::Program(error) => error.exit_status(),
            _ => 1,
        }
    }
}
