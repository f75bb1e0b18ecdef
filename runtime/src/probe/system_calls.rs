//! Which system calls answer: each is made with arguments that mean nothing, in a copy of this
//! process.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    os::fd::AsFd,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork},
};
use serde::{Deserialize, Serialize};

use crate::isolation::wait::{Interest, wait};

/// The numbers that are tried: all that Linux has given so far, and some more.
const NUMBERS: std::ops::Range<u16> = 0..480;

/// Calls that would end or hold up the copy, or change something beyond it, whatever their arguments.
const NOT_TRIED: [libc::c_long; 11] = [
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_pause,
    libc::SYS_rt_sigreturn,
    libc::SYS_kill,
    libc::SYS_vhangup,
    libc::SYS_sync,
    libc::SYS_msgget,
    libc::SYS_reboot,
];

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(2);

/// How calls were answered, by their numbers. Those that aren't tried are in none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Calls {
    /// The kernel took them up, if only to say that the arguments are wrong.
    pub(crate) answered: Vec<u16>,
    /// `EPERM` or `EACCES`: a filter, or the lack of a right.
    pub(crate) refused: Vec<u16>,
    /// `ENOSYS`: a filter, or the kernel has none of that number.
    pub(crate) absent: Vec<u16>,
    /// The process was killed for it.
    pub(crate) killed: Vec<u16>,
}

impl Calls {
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn attempt() -> Self {
        let mut calls = Self::default();
        let mut next = NUMBERS.start;
        while next < NUMBERS.end {
            // SAFETY: the caller's promise.
            match unsafe { Copy::make(next) } {
                Ok(mut copy) => next = copy.follow(&mut calls, next),
                // The filter may forbid copies, and what was found until here is less than there is.
                Err(_) => return Self::default(),
            }
        }
        calls
    }

    fn note(&mut self, number: u16, error: u16) {
        let list = match libc::c_int::from(error) {
            libc::ENOSYS => &mut self.absent,
            libc::EPERM | libc::EACCES => &mut self.refused,
            _ => &mut self.answered,
        };
        list.push(number);
    }
}

/// A copy of this process, which tries one call after the other and says how each was answered.
struct Copy {
    pid: Pid,
    answers: PipeReader,
}

impl Copy {
    /// # Safety
    ///
    /// This process must have a single thread.
    unsafe fn make(first: u16) -> io::Result<Self> {
        let (answers, writer) = io::pipe()?;
        // SAFETY: the caller's promise.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                answers,
            }),
            ForkResult::Child => {
                drop(answers);
                try_from(first, writer);
                // SAFETY: _exit ends the process without running anything of its parent's.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Notes the answers from a number on, until the copy ends. Returns which number is next.
    fn follow(&mut self, calls: &mut Calls, first: u16) -> u16 {
        let mut next = first;
        loop {
            while NOT_TRIED.contains(&next.into()) {
                next += 1;
            }
            let interests = vec![Interest::readable((), self.answers.as_fd())];
            let ready = wait(interests, Some(LIMIT));
            let mut answer = [0; 4];
            if ready.is_ok_and(|events| !events.is_empty())
                && self.answers.read_exact(&mut answer).is_ok()
            {
                let [a, b, c, d] = answer;
                calls.note(u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
                next = u16::from_ne_bytes([a, b]) + 1;
                continue;
            }
            break;
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        let status = waitpid(self.pid, None);
        if next < NUMBERS.end {
            // A filter kills by this signal. One that waits was answered, and one that the kernel answers
            // with another signal.
            match status {
                Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => calls.killed.push(next),
                _ => calls.answered.push(next),
            }
        }
        next + 1
    }
}

/// Runs in the copy.
fn try_from(first: u16, mut answers: PipeWriter) {
    for number in first..NUMBERS.end {
        if NOT_TRIED.contains(&number.into()) {
            continue;
        }
        let nothing: libc::c_long = -1;
        // SAFETY: none of the addresses is one of this process's, which has nothing to lose: what
        // ends it or takes its memory is noticed by its parent.
        let result = unsafe {
            libc::syscall(
                number.into(),
                nothing,
                nothing,
                nothing,
                nothing,
                nothing,
                nothing,
            )
        };
        let error = match result {
            -1 => io::Error::last_os_error().raw_os_error().unwrap_or(0) as u16,
            _ => 0,
        };
        let [a, b] = number.to_ne_bytes();
        let [c, d] = error.to_ne_bytes();
        if answers.write_all(&[a, b, c, d]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_list() {
        let mut calls = Calls::default();
        for (number, error) in [
            (1, 0),
            (2, libc::EFAULT),
            (3, libc::EPERM),
            (4, libc::ENOSYS),
        ] {
            calls.note(number, error as u16);
        }
        let expected = Calls {
            answered: vec![1, 2],
            refused: vec![3],
            absent: vec![4],
            killed: vec![],
        };
        assert_eq!(calls, expected);
    }
}
