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

/// Whose system call is looked for.
#[derive(Debug, Clone, Copy)]
pub enum Whose {
    /// A process of this user, which has no other.
    User(OwnUser),
    /// The process with this pid, as the host has it.
    Process(u32),
}

/// Returns the number of the system call that a process was last killed for, if the log has it and
/// it was after `since`, a time since 1970.
fn call(whose: Whose, since: Duration) -> Option<u32> {
    let word = match whose {
        Whose::User(user) => format!("uid={}", user.logged()?),
        Whose::Process(pid) => format!("pid={pid}"),
    };
    (0..ATTEMPTS).find_map(|attempt| {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        find(&log()?, &word, since)
    })
}

/// Returns words for that system call, none if the log doesn't have it.
pub fn words(whose: Whose, since: Duration) -> String {
    call(whose, since).map_or_else(String::new, |call| format!(", for system call {call}"))
}

/// Returns when a process began that did so at `start`, in clock ticks since boot: a time since 1970.
pub fn beginning(start: u64) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the time is valid for the call; sysconf touches no memory of ours.
    let rate = unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut now);
        libc::sysconf(libc::_SC_CLK_TCK)
    };
    let rate = u64::try_from(rate).unwrap_or(100).max(1);
    let up = Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0));
    let age = up.saturating_sub(Duration::from_secs(start / rate));
    self::now().saturating_sub(age)
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

/// Looks for `audit: type=1326 audit(SECONDS.MILLISECONDS:SERIAL): … uid=USER … pid=PID … sig=31 …
/// syscall=NUMBER …`, the form in which a seccomp filter's action is logged.
/// `whose` is the word that tells whose.
fn find(log: &str, whose: &str, since: Duration) -> Option<u32> {
    let signal = format!("sig={}", libc::SIGSYS);
    log.lines().rev().find_map(|line| {
        let (_, record) = line.split_once("audit: type=1326 audit(")?;
        let seconds: u64 = record.split('.').next()?.parse().ok()?;
        let word = |wanted: &str| record.split(' ').any(|word| word == wanted);
        if seconds < since.as_secs() || !word(whose) || !word(&signal) {
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
    fn a_process_began_when_its_ticks_say() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let start = fields.split(' ').nth(19).unwrap().parse().unwrap();
        let began = beginning(start);
        assert!(began <= now() && now() - began < Duration::from_secs(3600));
        assert!(beginning(0) < began);
    }

    #[test]
    fn the_last_line_of_a_user_is_found() {
        let line = |seconds: u64, user: u32, signal: i32, call: u32| {
            format!(
                "<5>[  1.2] audit: type=1326 audit({seconds}.738:453): auid=1 uid={user} gid=7 \
                 ses=1 pid={} comm=\"q\" exe=\"/q\" sig={signal} arch=c000003e syscall={call} \
                 compat=0 ip=0x7 code=0x80000000\n",
                user + 1000,
            )
        };
        let log = line(99, 7, 31, 1) + &line(100, 7, 31, 2) + &line(101, 7, 31, 3);
        let log = log + &line(102, 8, 31, 4) + &line(103, 7, 0, 5) + "<6>[ 1.3] other\n";
        let of = |whose, since| find(&log, whose, Duration::from_secs(since));
        assert_eq!((of("pid=1008", 0), of("pid=8", 0)), (Some(4), None));
        assert_eq!(of("uid=7", 100), Some(3));
        assert_eq!(of("uid=8", 100), Some(4));
        assert_eq!(of("uid=7", 102), None);
        assert_eq!(of("uid=77", 0), None);
        let broken = "audit: type=1326 audit(x";
        assert_eq!(find(broken, "uid=7", Duration::ZERO), None);
    }
}
