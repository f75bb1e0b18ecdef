//! `nacre exec`: a further process in a container.

use std::path::Path;

use nacre_agent::container::{ExecOptions, Stdio};
use nix::sys::{
    signal::{Signal, kill},
    wait::waitpid,
};
use oci_spec::runtime::{Process, Spec};

use crate::{
    isolation::{StatusError, hooks, pid_file, signals::Signals},
    state::Status,
};

use super::{Found, ProcessError, descriptors, foreground::Foreground};

/// A process to be started, besides what its `process` says.
#[derive(Debug)]
pub(crate) struct ExecRequest<'a> {
    pub(crate) process: &'a Process,
    /// Return once it runs.
    pub(crate) detach: bool,
    pub(crate) pid_file: Option<&'a Path>,
    pub(crate) console_socket: Option<&'a Path>,
    pub(crate) preserve_fds: u32,
    /// Cgroups below the container's, each with its controller, or an empty name for all.
    pub(crate) cgroups: Vec<(&'a str, &'a Path)>,
    pub(crate) ignore_paused: bool,
}

/// Starts a process in the container of `spec`; returns its exit status, or 0 if it was
/// detached.
pub(crate) fn exec(
    found: &Found<'_>,
    status: Status,
    spec: &Spec,
    request: &ExecRequest<'_>,
) -> Result<u8, ProcessError> {
    match status {
        Status::Stopped | Status::Creating => return Err(StatusError::ExecStopped.into()),
        Status::Paused if !request.ignore_paused => return Err(StatusError::ExecPaused.into()),
        _ => {}
    }
    let console_socket = descriptors::console_socket(
        request.console_socket,
        descriptors::has_terminal(Some(request.process)),
        request.detach,
    )?;
    let signals = match request.detach {
        true => None,
        // From here on a signal is the process's.
        false => Some(Signals::block().map_err(ProcessError::host("can't block signals"))?),
    };
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
    let executed = container.exec(spec, request.process, options)?;
    let pid = executed.pid;
    let told = match request.pid_file {
        Some(path) => pid_file::write(path, pid).map_err(ProcessError::from),
        None => Ok(()),
    };
    let foreground = told.and_then(|()| match signals {
        Some(signals) => Foreground::new(signals, executed.terminal).map(Some),
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
