//! `nacre kill`: a signal to a container's first process, or to all of them.

use crate::state::Status;

use super::{Found, ProcessError};

/// Sends a signal, by number, to the first process, or to `all`.
pub(crate) fn kill(found: &Found<'_>, signal: i32, all: bool) -> Result<(), ProcessError> {
    // Without a pid namespace of their own the others would outlive the first.
    let all = all || (signal == libc::SIGKILL && !found.process.own_pids);
    if all && let Some(cgroup) = &found.process.cgroup {
        return match signal {
            libc::SIGKILL => Ok(cgroup.kill()?),
            _ => Err(ProcessError::AllOnlyKill),
        };
    }
    let not_running = || ProcessError::NotRunning {
        id: found.record.id.clone(),
        status: Status::Stopped,
    };
    let container = found.attach()?.ok_or_else(not_running)?;
    match container.signal(signal) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Err(not_running()),
        other => other.map_err(ProcessError::host("can't signal the container")),
    }
}
