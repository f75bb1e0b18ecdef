//! Finds out which system call a process was killed for by its filter.
//!
//! The kernel doesn't tell whoever waits for a process, but writes a line into its log, unless the
//! host has an audit daemon, which gets the line instead.

use std::time::{Duration, UNIX_EPOCH};

use crate::own_user::OwnUser;

/// syslog(2): read the end of the log without removing it.
const READ_ALL: libc::c_int = 3;

/// How much of the log is searched.
const LAST: usize = 64 << 10;

/// The line may be written shortly after the end. How often it is looked for, and at what interval.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(10);

/// Returns the number of the system call that a process of this user was last killed for, if the
/// log has it and it was after `since`, a time since 1970.
pub(crate) fn call(user: OwnUser, since: Duration) -> Option<u32> {
    let user = user.logged()?;
    (0..ATTEMPTS).find_map(|attempt| {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        find(&log()?, user, since)
    })
}

/// Returns the time since 1970.
pub(crate) fn now() -> Duration {
    UNIX_EPOCH.elapsed().unwrap_or_default()
}

fn log() -> Option<String> {
    let mut log = vec![0; LAST];
    // SAFETY: the buffer has the length given.
    let read = unsafe { libc::klogctl(READ_ALL, log.as_mut_ptr().cast(), LAST as libc::c_int) };
    log.truncate(usize::try_from(read).ok()?);
    Some(String::from_utf8_lossy(&log).into_owned())
}

/// Looks for `audit: type=1326 audit(SECONDS.MILLISECONDS:SERIAL): … uid=USER … sig=31 …
/// syscall=NUMBER …`, the form in which a seccomp filter's action is logged.
fn find(log: &str, user: u32, since: Duration) -> Option<u32> {
    let user = format!("uid={user}");
    let signal = format!("sig={}", libc::SIGSYS);
    log.lines().rev().find_map(|line| {
        let (_, record) = line.split_once("audit: type=1326 audit(")?;
        let seconds: u64 = record.split('.').next()?.parse().ok()?;
        let word = |wanted: &str| record.split(' ').any(|word| word == wanted);
        if seconds < since.as_secs() || !word(&user) || !word(&signal) {
            return None;
        }
        let mut words = record.split(' ');
        let call = words.find_map(|word| word.strip_prefix("syscall="));
        call?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_user_is_found() {
        let line = |seconds: u64, user: u32, signal: i32, call: u32| {
            format!(
                "<5>[  1.2] audit: type=1326 audit({seconds}.738:453): auid=1 uid={user} gid=7 \
                 ses=1 pid=9 comm=\"q\" exe=\"/q\" sig={signal} arch=c000003e syscall={call} \
                 compat=0 ip=0x7 code=0x80000000\n"
            )
        };
        let log = line(99, 7, 31, 1) + &line(100, 7, 31, 2) + &line(101, 7, 31, 3);
        let log = log + &line(102, 8, 31, 4) + &line(103, 7, 0, 5) + "<6>[ 1.3] other\n";
        let of = |user, since| find(&log, user, Duration::from_secs(since));
        assert_eq!(of(7, 100), Some(3));
        assert_eq!(of(8, 100), Some(4));
        assert_eq!(of(7, 102), None);
        assert_eq!(of(77, 0), None);
        assert_eq!(find("audit: type=1326 audit(x", 7, Duration::ZERO), None);
    }
}
