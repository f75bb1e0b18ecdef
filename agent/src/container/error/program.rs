//! The error of a program that can't be run.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::unistd::write;

/// Why a program can't be run. The messages are runc's: Docker, Podman and others look for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotInPath,
    Errno(Errno),
}

/// The error of a program that couldn't be run.
#[derive(Debug, thiserror::Error)]
#[error("exec: {program:?}: {}", words(*.refusal))]
pub(crate) struct ProgramError {
    pub(crate) program: String,
    pub(crate) refusal: Refusal,
}

fn words(refusal: Refusal) -> String {
    match refusal {
        Refusal::NotInPath => "executable file not found in $PATH".to_owned(),
        Refusal::Errno(errno) => {
            let mut words = errno.desc().to_owned();
            if let Some(first) = words.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            words
        }
    }
}

impl ProgramError {
    /// Whether there is no such file.
    pub(crate) fn leads_nowhere(&self) -> bool {
        self.refusal == Refusal::Errno(Errno::ENOENT)
    }

    /// Writes the error where the program would have written, in runc's words.
    pub(crate) fn say(&self) {
        let line = format!("exec {}: {}\n", self.program, words(self.refusal));
        // SAFETY: the standard streams are open, and stay so.
        let stderr = unsafe { BorrowedFd::borrow_raw(2) };
        let _ = write(stderr, line.as_bytes());
    }

    /// Returns the exit status that a shell gives: 127 for a program that doesn't exist, 126 for
    /// one that can't be run.
    pub(crate) fn exit_status(&self) -> u8 {
        match self.refusal {
            Refusal::NotInPath | Refusal::Errno(Errno::ENOENT | Errno::ENOTDIR) => 127,
            Refusal::Errno(_) => 126,
        }
    }
}
