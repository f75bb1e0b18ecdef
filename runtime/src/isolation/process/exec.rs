//! `nacre exec`: a further process in a container.

use nacre_agent::container::{ExecOptions, Stdio};
use nix::sys::{
    signal::{Signal, kill},
    wait::waitpid,
};
use oci_spec::runtime::Spec;

use crate::{
    isolation::{
        StatusError,
        console::{self, Raw},
        exec::ExecRequest,
        hooks, pid_file,
        signals::Signals,
    },
    state::Status,
};

use super::{Found, ProcessError, foreground::Foreground};

/// Starts a process in the container of `spec`; returns its exit status, or 0 if it was
/// detached.
pub(crate) fn exec(
    found: &Found<'_>,
    status: Status,
    spec: &Spec,
    request: &ExecRequest<'_>,
) -> Result<u8, ProcessError> {
    request.check(status)?;
    let has_terminal = console::has_terminal(Some(request.process));
    let console_socket = console::connect(request.console_socket, has_terminal, request.detach)?;
    let signals = match request.detach {
        true => None,
        // From here on a signal is the process's.
        false => Some(Signals::block().map_err(ProcessError::host("can't block signals"))?),
    };
    let ours = match has_terminal && !request.detach {
        true => Some(Foreground::raw()?),
        false => None,
    };
    let mut process = request.process.clone();
    // It may look before anybody could change it.
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
    let executed = container.exec(spec, &process, options)?;
    let pid = executed.pid;
    let told = match request.pid_file {
        Some(path) => pid_file::write(path, pid).map_err(ProcessError::from),
        None => Ok(()),
    };
    let foreground = told.and_then(|()| match signals {
        Some(signals) => Foreground::new(signals, executed.terminal.zip(ours)).map(Some),
        None => Ok(None),
    });
    match foreground {
        Ok(Some(foreground)) => foreground.wait(pid),
        Ok(None) => Ok(0),
        Err(error) => {
            // A child of ours that isn't reaped yet.
            let _ = kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
            Err(error)
        }
    }
}
