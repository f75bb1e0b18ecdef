//! Errors of a container's set-up, and how they are told.

mod chain;
mod hook;
mod init;
mod mount;
mod program;
mod step;

pub use chain::describe;
pub use hook::HookError;
pub(crate) use hook::HookProblem;
pub(crate) use init::InitError;
pub(crate) use mount::{MountError, MountProblem};
pub(crate) use program::{ProgramError, Refusal};
pub use step::{Step, StepError};
