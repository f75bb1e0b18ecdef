//! The descriptors that a container gets from its caller besides the standard streams.

use oci_spec::runtime::Process;

use crate::isolation::descriptors::listen_fds;

use super::error::ProcessError;

/// Passes on what systemd's socket activation has given this process; returns how many descriptors,
/// from 3 on, the workload gets, with `preserve_fds` more.
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
