//! `nacre kill`: a signal to a container's first process, or to all of them.

use std::path::Path;

use crate::{
    id::Id,
    state::{Status, record},
};

use super::{ProcessError, attach};

/// Sends a signal, by number, to the first process, or to `all`.
pub(crate) fn kill(
    id: &Id,
    process: &record::Process,
    folder: &Path,
    signal: i32,
    all: bool,
) -> Result<(), ProcessError> {
    // Without a pid namespace of their own the others would outlive the first.
    let all = all || (signal == libc::SIGKILL && !process.own_pids);
    if all && let Some(cgroup) = &process.cgroup {
        return match signal {
            libc::SIGKILL => Ok(cgroup.kill()?),
            _ => Err(ProcessError::AllOnlyKill),
        };
    }
    let not_running = || ProcessError::NotRunning {
        id: id.to_string(),
        status: Status::Stopped,
    };
    let container = attach(process, folder)?.ok_or_else(not_running)?;
    match container.signal(signal) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
        other => other.map_err(ProcessError::host("can't signal the container")),
    }
}
