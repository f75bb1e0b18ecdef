//! `nacre exec`: a further process in a container.

use nacre_agent::container::{ExecOptions, Stdio};
use nix::sys::{
    signal::{Signal, kill},
    wait::waitpid,
};
use oci_spec::runtime::Spec;

use crate::{
    isolation::{
        console::{self, Raw},
        exec::ExecRequest,
        hooks,
        signals::Signals,
        status_error::StatusError,
        told,
    },
    state::Status,
};

use super::{error::ProcessError, foreground::Foreground, found::HostContainer};

/// Starts a process in the container of `spec`; returns its exit status, or 0 if it was detached.
pub(crate) fn exec(
    found: &HostContainer<'_>,
    status: Status,
    spec: &Spec,
    request: &ExecRequest<'_>,
) -> Result<u8, ProcessError> {
    request.check(status)?;
    let has_terminal = console::has_terminal(Some(request.process));
    let console_socket = console::connect(request.console_socket, has_terminal, request.detach)?;
    let signals = if request.detach {
        None
    } else {
        // From here on signals are for the process.
        Some(Signals::block().map_err(ProcessError::host("can't block signals"))?)
    };
    let ours = if has_terminal && !request.detach {
        Some(Foreground::raw()?)
    } else {
        None
    };
    let mut process = request.process.clone();
    // The process may look at the size before anybody could change it.
    if let Some(size) = ours.as_ref().and_then(Raw::size) {
        console::fit(&mut process, size);
    }
    let container = found.attach()?.ok_or(StatusError::ExecStopped)?;
    let stdio =
        Stdio::inherit().map_err(ProcessError::host("can't duplicate the standard streams"))?;
    let options = ExecOptions {
        console_socket,
        preserve_fds: request.preserve_fds,
        cgroups: &request.cgroups,
        state: Some(hooks::state(
            found.record,
            status.into(),
            Some(container.pid().as_raw()),
        )),
        session_keyring: found.process.own_keyring.then_some(&found.record.id),
        ..ExecOptions::new(stdio)
    };
    // SAFETY: this process has no other thread.
    let executed = unsafe { container.exec(spec, &process, options) }?;
    let pid = executed.pid;
    tracing::debug!("container {}: a further process is {pid}", found.record.id);
    let told = request.told.tell(told::StartedAs::Further, pid);
    let foreground = told
        .map_err(ProcessError::from)
        .and_then(|()| match signals {
            Some(signals) => Foreground::new(signals, executed.terminal.zip(ours)).map(Some),
            None => Ok(None),
        });
    match foreground {
        Ok(Some(foreground)) => foreground.wait(pid),
        Ok(None) => Ok(0),
        Err(error) => {
            // It is a child of ours that isn't reaped yet.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
            Err(error)
        }
    }
}
