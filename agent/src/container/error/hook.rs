//! The error of a hook.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::chain::describe;
use super::step::StepError;

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("{field} ({}): {problem}", path.display())]
pub struct HookError {
    /// Its entry's path in the configuration.
    pub(crate) field: String,
    /// Its program's path.
    pub(crate) path: PathBuf,
    pub(crate) problem: HookProblem,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum HookProblem {
    #[error("{}", describe(.0))]
    Step(#[from] StepError),
    #[error("it isn't done after {seconds} s (its timeout), and was killed{output}")]
    TimedOut { seconds: u64, output: String },
    #[error("{}{output}", how(*status))]
    Failed { status: ExitStatus, output: String },
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("killed by signal {}", signal.unwrap_or_default()),
    }
}
