//! Runs this program's own commands.

use std::{
    ffi::{OsStr, OsString},
    io::{self, PipeWriter},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nacre_vmm::phase;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    config::Isolation,
    isolation::wait::{Interest, wait},
};

use super::{error::CompareError, interrupt};

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How often to look whether this process is to end.
const TICK: Duration = Duration::from_millis(100);

/// How long one that is told to end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// This program, with the flags that all its commands get.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) flags: Vec<OsString>,
}

/// What a command has taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    pub(super) wall: Duration,
    /// CPU time, in user space and in the kernel.
    pub(super) cpu: Duration,
}

impl Program {
    /// Begins a command for a container. What it and the container print goes to these pipes, if any.
    pub(super) fn begin(
        &self,
        isolation: Isolation,
        command: &'static str,
        words: &[&OsStr],
        streams: Option<[PipeWriter; 2]>,
    ) -> Result<Running, CompareError> {
        let [stdout, stderr] = match streams {
            Some(streams) => streams.map(|stream| Stdio::from(OwnedFd::from(stream))),
            None => [Stdio::null(), Stdio::inherit()],
        };
        let (began, moment) = (Instant::now(), phase::moment());
        let parent = std::process::id();
        let mut child = Command::new(&self.path);
        // SAFETY: this makes system calls and nothing else.
        unsafe { child.pre_exec(move || end_with(parent)) };
        let child = child
            .args(&self.flags)
            .arg("--isolation")
            .arg(isolation.name())
            .arg(command)
            .args(words)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .map_err(CompareError::host("run nacre's own program"))?;
        let pid = child.id() as libc::pid_t;
        let end = open_pidfd(pid).map_err(CompareError::host("watch a command"))?;
        Ok(Running {
            isolation,
            command,
            pid,
            end,
            began,
            moment,
            is_undisturbed: false,
        })
    }
}

/// Has this process be told to end when its parent does.
fn end_with(parent: u32) -> io::Result<()> {
    use rustix::process::{getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // It may have ended before.
    let is_there = getppid().is_some_and(|pid| pid.as_raw_nonzero().get() as u32 == parent);
    is_there.then_some(()).ok_or(io::ErrorKind::NotFound.into())
}

/// A command that was begun.
#[derive(Debug)]
pub(super) struct Running {
    isolation: Isolation,
    command: &'static str,
    pid: libc::pid_t,
    end: OwnedFd,
    pub(super) began: Instant,
    /// The same by the clock that phases are told by.
    pub(super) moment: u64,
    /// Whether it goes on if this process is to end.
    is_undisturbed: bool,
}

impl Running {
    /// Returns what becomes readable when it has ended.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    /// Lets it go on if this process is to end: it cleans up.
    pub(super) fn undisturbed(self) -> Self {
        Self {
            is_undisturbed: true,
            ..self
        }
    }

    /// Ends it.
    pub(super) fn end(self) {
        let pid = Pid::from_raw(self.pid);
        let _ = kill(pid, Signal::SIGTERM);
        let interests = vec![Interest::readable((), self.end.as_fd())];
        if wait(interests, Some(PATIENCE)).is_ok_and(|events| events.is_empty()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = reap(self.pid);
    }

    /// Waits for its end. `said` returns what it has printed, if it failed.
    pub(super) fn finish(self, said: impl FnOnce() -> String) -> Result<Effort, CompareError> {
        let signal = self.wait()?;
        let wall = self.began.elapsed();
        let (status, cpu) = reap(self.pid).map_err(CompareError::host("reap a command"))?;
        if !self.is_undisturbed {
            interrupt::check()?;
        }
        let isolation = self.isolation.name();
        let command = self.command;
        match (signal, status) {
            (Some(Signal::SIGKILL), _) => Err(CompareError::Slow {
                isolation,
                command,
                seconds: LIMIT.as_secs(),
            }),
            (_, 0) => Ok(Effort { wall, cpu }),
            _ => Err(CompareError::Command {
                isolation,
                command,
                said: said(),
            }),
        }
    }

    /// Waits until it has ended. Returns the signal that it was sent last.
    fn wait(&self) -> Result<Option<Signal>, CompareError> {
        let mut sent = None;
        loop {
            let interests = vec![Interest::readable((), self.end.as_fd())];
            let events =
                wait(interests, Some(TICK)).map_err(|e| CompareError::host("wait")(e.into()))?;
            if !events.is_empty() {
                return Ok(sent);
            }
            // It undoes what it has done when it is asked to end, and may not have been asked yet.
            let seen = interrupt::seen().filter(|_| !self.is_undisturbed);
            let next = match (seen, self.began.elapsed() > LIMIT) {
                (_, true) => Some(Signal::SIGKILL),
                (Some(_), false) => Some(Signal::SIGTERM),
                (None, false) => None,
            };
            if next != sent {
                sent = next;
                let _ = kill(Pid::from_raw(self.pid), next);
            }
        }
    }
}

/// Opens a pidfd of a child.
pub(super) fn open_pidfd(pid: libc::pid_t) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(
        pid,
        rustix::process::PidfdFlags::empty(),
    )?)
}

/// Waits for a child. Returns its exit status, 128+n for a signal, and the CPU time of it and what it
/// has waited for.
pub(super) fn reap(pid: libc::pid_t) -> io::Result<(u8, Duration)> {
    let mut status = 0;
    // SAFETY: all zeroes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for the call, which writes to them.
    while unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    let status = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status) as u8
    } else {
        libc::WEXITSTATUS(status) as u8
    };
    Ok((status, cpu))
}

/// Reaps what else has ended of what containers left to this process.
pub(super) fn reap_others() {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    while waitpid(None, Some(WaitPidFlag::WNOHANG))
        .is_ok_and(|status| status != WaitStatus::StillAlive)
    {}
}
