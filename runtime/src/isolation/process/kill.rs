//! `nacre kill`: a signal to a container's first process, or to all of them.

use std::io;

use nacre_agent::container::Container;

use crate::{isolation::signals::Recipients, state::Status};

use super::{error::ProcessError, found::HostContainer};

/// Sends a signal, by number.
pub(crate) fn kill(
    found: &HostContainer<'_>,
    signal: i32,
    to: Recipients,
) -> Result<(), ProcessError> {
    if to == Recipients::All
        && let Some(cgroup) = &found.process.cgroup
    {
        return Ok(cgroup.signal_all(signal)?);
    }
    let not_running = || found.not_running(Status::Stopped);
    let container = found.attach()?.ok_or_else(not_running)?;
    send(&container, signal).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => not_running(),
        _ => ProcessError::host("can't signal the container")(error),
    })
}

/// Sends a signal to a container's first process.
pub(super) fn send(container: &Container, signal: i32) -> io::Result<()> {
    container.signal(signal)?;
    if signal == libc::SIGKILL
        && let Some(cgroup) = container.cgroup()
        && cgroup.is_frozen().unwrap_or(false)
    {
        // A cgroup v1 freezer even keeps processes from being killed.
        let _ = cgroup.thaw();
    }
    Ok(())
}
