//! Files that systemd's socket activation has opened for a container
//! ([sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)).

use std::env;

/// Returns how many descriptors, from 3 on, are meant for this process.
pub(super) fn listen_fds() -> Option<u32> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let count = number("LISTEN_FDS").filter(|count| *count > 0)?;
    (number("LISTEN_PID")? == std::process::id()).then_some(count)
}
