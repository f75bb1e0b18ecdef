//! What a container gets of its caller's descriptors besides the standard streams, and where its
//! terminal goes.

use std::{env, io, os::fd::OwnedFd, os::unix::net::UnixStream, path::Path};

use oci_spec::runtime::Process;

use super::ProcessError;

/// Passes on what systemd's socket activation has given this process
/// ([sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)); returns how
/// many descriptors from 3 on the workload gets, with `preserve_fds` more.
pub(super) fn pass_on(process: &mut Process, preserve_fds: u32) -> Result<u32, ProcessError> {
    let Some(listen_fds) = listen_fds() else {
        return Ok(preserve_fds);
    };
    // The workload is the first process of its pid namespace.
    let variables = [format!("LISTEN_FDS={listen_fds}"), "LISTEN_PID=1".into()];
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(variables);
    process.set_env(Some(env));
    listen_fds
        .checked_add(preserve_fds)
        .ok_or(ProcessError::TooManyDescriptors)
}

/// How many descriptors from 3 on are meant for this process.
fn listen_fds() -> Option<u32> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let count = number("LISTEN_FDS").filter(|count| *count > 0)?;
    (number("LISTEN_PID")? == std::process::id()).then_some(count)
}

/// Connects to the console socket, if there is to be one: who detaches from a terminal has to
/// give it to somebody, and nobody else may.
pub(super) fn console_socket(
    path: Option<&Path>,
    terminal: bool,
    detach: bool,
) -> Result<Option<OwnedFd>, ProcessError> {
    match path {
        None if terminal && detach => Err(ProcessError::NoConsoleSocket),
        Some(_) if !terminal || !detach => Err(ProcessError::UselessConsoleSocket),
        None => Ok(None),
        Some(path) => {
            let failed = |source: io::Error| ProcessError::ConsoleSocket {
                path: path.into(),
                source,
            };
            Ok(Some(UnixStream::connect(path).map_err(failed)?.into()))
        }
    }
}

/// Whether a process is to have a terminal.
pub(super) fn has_terminal(process: Option<&Process>) -> bool {
    process.and_then(Process::terminal) == Some(true)
}
