//! The process that serves files to a guest, as the process that made it has it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::device::{self, raise_file_limit};
use super::orders::{Answer, Order, is_hang_up};
use super::policy::{Policy, Rights};
use super::process::{FileShare, ServingProcess};
use crate::child::{Child, Ended, pidfd};
use crate::devices::virtio::vhost_user::RemoteDevice;
use crate::fork::fork;
use crate::violation::{self, Whose};

/// How long the server may take to do what it is told. Its file systems may be slow.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long it may take to end once it has been killed: a file system may hold it up.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Why a file server doesn't do what it should.
#[derive(Debug, thiserror::Error)]
pub enum FileServerError {
    /// Its process has ended, which it does only if something has ended it.
    #[error("the process that serves files to the guest {0}")]
    Ended(String),
    /// It can't continue.
    #[error("the process that serves files to the guest failed: {0}")]
    Failed(String),
    /// It takes too long.
    #[error("the process that serves files to the guest doesn't answer")]
    Silent,
    /// What it answers makes no sense, or the host refused something.
    #[error("can't talk to the process that serves files to the guest")]
    Talk(#[source] io::Error),
}

/// A process that serves directories to a guest: the back end of [`RemoteDevice`]s of the file
/// system type. Dropping this ends it.
#[derive(Debug)]
pub struct FileServer {
    child: Child,
    control: UnixStream,
    /// When it was made, since 1970.
    begin: Duration,
}

impl FileServer {
    /// Makes the process, a child of this one, and the devices, one for each of the share's
    /// exports. It serves once [`await_start`](Self::await_start) has returned.
    ///
    /// In the child, `settle` comes first, in a mount namespace of its own that still has all of
    /// the parent's mounts, but under ids of their own: it returns the policy for these. It must
    /// not use files that the parent has open.
    ///
    /// The child is killed when the calling thread ends. This raises the process's soft limit on
    /// open files as far as allowed, since each file that the guest knows takes one.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if a tag is empty, longer than [`MAX_TAG`](super::MAX_TAG) or contains a NUL;
    /// otherwise the host's.
    ///
    /// # Safety
    ///
    /// As with fork(2): this process must have a single thread.
    pub unsafe fn spawn(
        share: FileShare,
        settle: impl FnOnce() -> io::Result<Policy>,
    ) -> io::Result<(FileServer, Vec<RemoteDevice>)> {
        raise_file_limit()?;
        let (control, theirs) = UnixStream::pair()?;
        let mut devices = Vec::new();
        let mut sockets = Vec::new();
        for (tag, _) in &share.exports {
            let (front, back) = UnixStream::pair()?;
            devices.push(device::remote(tag, front)?);
            sockets.push(back);
        }
        let parent = pidfd(std::process::id())?;
        let begin = violation::now();
        // SAFETY: the caller's promise.
        let Some(child) = (unsafe { fork()? }) else {
            ServingProcess {
                share,
                parent,
                control: theirs,
                sockets,
            }
            .run(settle)
        };
        // It is killed if this fails.
        let server = FileServer {
            child,
            control,
            begin,
        };
        Ok((server, devices))
    }

    /// Waits until it serves. To be called once, before the other methods.
    ///
    /// # Errors
    ///
    /// If it can't, or takes too long.
    pub fn await_start(&self) -> Result<(), FileServerError> {
        self.hear()
    }

    /// Has it refuse what `rights` don't allow. It does once this has returned.
    ///
    /// # Errors
    ///
    /// If it doesn't.
    pub fn enforce(&self, rights: Rights) -> Result<(), FileServerError> {
        self.order(&Order::Enforce(rights))
    }

    /// Has it allow what `more` allows, too: for a process that joins the container.
    ///
    /// # Errors
    ///
    /// If it doesn't.
    pub fn widen(&self, more: Rights) -> Result<(), FileServerError> {
        self.order(&Order::Widen(more))
    }

    /// Has it make the directory of device `index` read-only, which must be a mount's root. It
    /// can't once a policy is enforced.
    ///
    /// # Errors
    ///
    /// If it doesn't.
    pub fn seal(&self, index: u8) -> Result<(), FileServerError> {
        self.order(&Order::Seal(index))
    }

    /// Returns its pid.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Returns why its [descriptor](AsFd) is readable.
    pub fn failure(&self) -> FileServerError {
        match self.hear() {
            Ok(()) => FileServerError::Talk(io::ErrorKind::InvalidData.into()),
            Err(error) => error,
        }
    }

    fn order(&self, order: &Order) -> Result<(), FileServerError> {
        match order.send(&self.control, ANSWER_LIMIT) {
            Ok(()) => self.hear(),
            // It may have said why before.
            Err(error) if is_hang_up(&error) => self.hear(),
            Err(error) => Err(talk(error)),
        }
    }

    fn hear(&self) -> Result<(), FileServerError> {
        match Answer::receive(&self.control, ANSWER_LIMIT).map_err(talk)? {
            Some(Answer::Done) => Ok(()),
            Some(Answer::Failed(why)) => Err(FileServerError::Failed(why)),
            None => Err(self.ended()),
        }
    }

    /// Returns how it ended, as it has closed its end of the socket.
    fn ended(&self) -> FileServerError {
        if !self.child.has_ended_within(END_LIMIT) {
            return FileServerError::Silent;
        }
        match self.child.reap() {
            Ok(ended @ Ended::Killed(libc::SIGSYS)) => {
                let call = violation::words(Whose::Process(self.child.pid()), self.begin);
                FileServerError::Ended(format!("{ended}{call}"))
            }
            Ok(ended) => FileServerError::Ended(ended.to_string()),
            Err(error) => talk(error),
        }
    }
}

/// Readable once it has failed or ended.
impl AsFd for FileServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.child.kill();
        // What it had mounted isn't any more once it has ended.
        if self.child.has_ended_within(END_LIMIT) {
            // It may have been reaped before.
            let _ = self.child.reap();
        }
    }
}

fn talk(error: io::Error) -> FileServerError {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => FileServerError::Silent,
        _ => FileServerError::Talk(error),
    }
}

#[cfg(test)]
mod tests;
