//! Measures the time that the host gave a machine, so that it isn't blamed for what it
//! didn't get.
//!
//! A guest that hasn't done something in time may be stuck, or its host may be too busy for it. So
//! that time is the machine's own: while one of its threads waits for a processor or a disk of the
//! host, only what the threads have computed counts; when all wait for something to happen, all the
//! time that passes does. A guest that spins, halts, or sleeps is given up once it has had its
//! time; one that makes progress, however slowly, isn't.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::FileExt,
    },
    process,
    time::Duration,
};

/// A thread's `stat` file is shorter than this: some fifty numbers.
const LONGEST: usize = 1024;

/// A machine's threads.
#[derive(Debug, Default)]
pub(super) struct Effort {
    processes: Vec<u32>,
    /// The `stat` file of each thread (`/proc/PID/task/TID/stat`).
    threads: Vec<File>,
    /// What the threads had computed at the last call.
    computed: Duration,
}

impl Effort {
    /// Measures this process, but not the thread that asks, and `others`, which run the machine.
    pub(super) fn of_processes(others: impl IntoIterator<Item = u32>) -> Self {
        let mut processes = vec![process::id()];
        processes.extend(others);
        Self {
            processes,
            ..Self::default()
        }
    }

    /// Returns how much of `passed`, the time since the last call, was the machine's own.
    pub(super) fn had(&mut self, passed: Duration) -> Duration {
        let mut computed = self.computed;
        let had = self.had_since(&mut computed, passed);
        self.computed = computed;
        had
    }

    /// As [`Effort::had`], for a second caller: `before` is what the threads had computed at that
    /// caller's last call, and is brought up to date.
    pub(super) fn had_since(&mut self, before: &mut Duration, passed: Duration) -> Duration {
        // Once this process has left the host's file systems, it keeps the last threads that it
        // found.
        if let Ok(threads) = self.find() {
            self.threads = threads;
        }
        let accounts: Vec<_> = self.threads.iter().filter_map(Account::read).collect();
        let computed = accounts.iter().map(|account| account.computed).sum();
        let new = Duration::saturating_sub(computed, *before);
        *before = computed;
        if accounts.iter().any(|account| account.waits_for_host) {
            passed.min(new)
        } else {
            passed
        }
    }

    fn find(&self) -> io::Result<Vec<File>> {
        // SAFETY: the call takes nothing, and always succeeds.
        let own = unsafe { libc::gettid() }.to_string();
        let mut found = Vec::new();
        for process in &self.processes {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                let thread = thread?;
                if thread.file_name() != *own {
                    // The thread may have ended.
                    found.extend(File::open(thread.path().join("stat")).ok());
                }
            }
        }
        Ok(found)
    }
}

/// Returns the pid that a process has where this process's `/proc` is from.
pub(super) fn pid_of(process: BorrowedFd<'_>) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", process.as_raw_fd());
    let info = fs::read_to_string(path).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // It has ended if that is negative.
    pid.trim().parse().ok()
}

/// What a thread's `stat` file says.
struct Account {
    /// Whether it waits for a processor or a disk.
    waits_for_host: bool,
    computed: Duration,
}

impl Account {
    /// Reads it; `None` if the thread has ended.
    fn read(file: &File) -> Option<Self> {
        let mut text = [0; LONGEST];
        let length = file.read_at(&mut text, 0).ok()?;
        Self::parse(std::str::from_utf8(text.get(..length)?).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in brackets can be anything.
        let mut fields = text.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?;
        let mut ticks = fields.skip(10).map(str::parse::<u64>);
        let (user, system) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
        // SAFETY: sysconf touches no memory of ours.
        let rate = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let rate = u64::try_from(rate).unwrap_or(100).max(1);
        Some(Self {
            waits_for_host: matches!(state, "R" | "D"),
            computed: Duration::from_millis((user + system).saturating_mul(1000) / rate),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command},
        thread::sleep,
    };

    use super::*;

    #[test]
    fn an_account_is_read_behind_the_name() {
        let line = "7 (a) R (b) S 1 1 1 0 -1 4194560 147 0 0 0 250 50 0 0 20 0 1 0 1054 2998272";
        let account = Account::parse(line).unwrap();
        assert!(!account.waits_for_host);
        assert_eq!(account.computed, Duration::from_secs(3));
        assert!(Account::parse("7 (a) R 1 2").is_none());
        assert!(Account::parse(&line.replace("(b) S", "(b) D")).is_some_and(|a| a.waits_for_host));
    }

    fn run(program: &str, arguments: &[&str]) -> (Child, Effort) {
        let child = Command::new(program).args(arguments).spawn().unwrap();
        let effort = Effort {
            processes: vec![child.id()],
            ..Effort::default()
        };
        (child, effort)
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    const LONG: Duration = Duration::from_secs(1000);

    #[test]
    fn who_waits_for_nothing_of_the_hosts_had_all_the_time() {
        let (child, mut effort) = run("sleep", &["100"]);
        sleep(Duration::from_millis(100));
        assert_eq!(effort.had(LONG), LONG);
        end(child);
    }

    #[test]
    fn who_wants_a_processor_had_what_it_computed() {
        let (child, mut effort) = run("sh", &["-c", "while :; do :; done"]);
        // As much CPU time as it gets, but not all that passed.
        let mut had = Duration::ZERO;
        while had < Duration::from_millis(200) {
            sleep(Duration::from_millis(20));
            had += effort.had(LONG);
        }
        assert!(had < Duration::from_secs(100), "{had:?}");
        assert_eq!(effort.had(Duration::ZERO), Duration::ZERO);
        end(child);
    }
}
