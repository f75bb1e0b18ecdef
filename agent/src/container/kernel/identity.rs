//! Identifies a process, so that it can be told from a later one with the same pid.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::sys;

/// A process's pid and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its pid in this process's pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`
    /// ([proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)).
    pub start_time: u64,
}

impl Identity {
    /// Returns the identity of an existing process.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if there is no such process.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let stat = Stat::read(pid.as_raw())?;
        Ok(Identity {
            pid: pid.as_raw(),
            start_time: stat.start_time,
        })
    }

    /// As [`Identity::of`], for a child that isn't reaped, so that it exists.
    pub(crate) fn of_child(pid: Pid) -> Self {
        Identity::of(pid).unwrap_or(Identity {
            pid: pid.as_raw(),
            start_time: 0,
        })
    }

    /// Whether the process still exists and hasn't ended (a zombie has).
    pub fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| {
            stat.start_time == self.start_time && !matches!(stat.state, b'Z' | b'X' | b'x')
        })
    }

    /// Whether the process is stopped, by a signal or a tracer.
    pub fn is_stopped(&self) -> bool {
        Stat::read(self.pid).is_ok_and(|stat| {
            stat.start_time == self.start_time && matches!(stat.state, b'T' | b't')
        })
    }

    /// Returns a pidfd of the process; `None` if it has ended.
    ///
    /// # Errors
    ///
    /// The errors of `pidfd_open`.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let pidfd = match sys::pidfd_open(self.pid) {
            // Linux 6.1, for one, returns EINVAL while the pid of a process that is gone is still
            // the id of a session or process group.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {
                return Ok(None);
            }
            other => other?,
        };
        // If it is alive now, the descriptor is its own.
        Ok(self.is_alive().then_some(pidfd))
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended, `EINVAL` for an invalid signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let process = self.open()?.ok_or(Errno::ESRCH)?;
        sys::pidfd_send_signal(process.as_fd(), signal)
    }
}

struct Stat {
    state: u8,
    start_time: u64,
}

impl Stat {
    fn read(pid: i32) -> io::Result<Self> {
        let text = std::fs::read(format!("/proc/{pid}/stat"))?;
        parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Parses the file. The name, in parentheses, may hold anything, even parentheses.
fn parse(stat: &[u8]) -> Option<Stat> {
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // The state is the third field.
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some(Stat { state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_t_lie() {
        let line = b"7 (a) Z 1 (b) S 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 4242 23";
        let stat = parse(line).unwrap();
        assert_eq!((stat.state, stat.start_time), (b'S', 4242));
        assert!(parse(b"").is_none());
        assert!(parse(b"7 (a) S 1 2").is_none());
    }

    #[test]
    fn a_session_outlives_its_leader() {
        let mut leader = std::process::Command::new("setsid")
            .args(["sh", "-c", "sleep 2 >/dev/null 2>&1 &"])
            .spawn()
            .unwrap();
        let gone = Identity {
            pid: leader.id() as i32,
            start_time: 1,
        };
        leader.wait().unwrap();
        assert!(gone.open().unwrap().is_none());
    }

    #[test]
    fn this_process_is_known_again() {
        let this = Identity::of(Pid::this()).unwrap();
        assert!(this.is_alive());
        assert!(this.open().unwrap().is_some());
        let other = Identity {
            start_time: this.start_time + 1,
            ..this
        };
        assert!(!other.is_alive());
        assert!(other.open().unwrap().is_none());
    }
}
