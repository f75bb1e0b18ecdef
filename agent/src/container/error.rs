//! What can go wrong in a container's init, and how it is told.

use std::borrow::Cow;
use std::error::Error;
use std::io;

use super::hooks::HookError;
use super::mounts::MountError;
use super::process::ProgramError;

/// An error and all its causes, on one line.
pub fn describe(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// A step of the set-up that failed, in the container's init.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error("can't {step}")]
    Step {
        step: Cow<'static, str>,
        source: io::Error,
    },
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
    /// The exit status that a runtime's command ends with for it.
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            InitError::Program(error) => error.exit_status(),
            _ => 1,
        }
    }
}

/// Names the step that a kernel call was for.
pub(super) trait Step<T> {
    /// On failure, "can't `step`".
    fn step<S: Into<Cow<'static, str>>>(self, step: impl FnOnce() -> S) -> Result<T, InitError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step<S: Into<Cow<'static, str>>>(self, step: impl FnOnce() -> S) -> Result<T, InitError> {
        self.map_err(|source| InitError::Step {
            step: step().into(),
            source: source.into(),
        })
    }
}
