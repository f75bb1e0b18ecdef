//! What a container gets of its caller's descriptors besides the standard streams.

use std::env;

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
