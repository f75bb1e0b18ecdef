//! `--pid-file` and `--pidfd-socket`: where callers learn which process stands for a container, or
//! for a further process in it.

use std::{
    fs,
    io::{self, IoSlice},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use nacre_agent::container::outside::open_process;
use nix::{
    sys::socket::{ControlMessage, MsgFlags, sendmsg},
    unistd::Pid,
};

/// Why a caller wasn't told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToldError {
    #[error("can't write the pid file {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("can't send a pidfd to the socket {path}")]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What is sent with a pidfd, as runc does: how the process was started.
#[derive(Debug, Clone, Copy)]
pub(super) enum StartedAs {
    First,
    Further,
}

impl StartedAs {
    fn name(self) -> &'static str {
        match self {
            Self::First => "standard",
            Self::Further => "setns",
        }
    }
}

/// Who is to be told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// The file for the pid.
    pub(crate) pid_file: Option<PathBuf>,
    /// The socket for a pidfd.
    pub(crate) pidfd_socket: Option<PathBuf>,
}

impl Told {
    /// Tells them of a process.
    pub(super) fn tell(&self, process: StartedAs, pid: Pid) -> Result<(), ToldError> {
        if let Some(path) = &self.pidfd_socket {
            send(path, process, pid).map_err(|source| ToldError::Socket {
                path: path.clone(),
                source,
            })?;
        }
        match &self.pid_file {
            Some(path) => write(path, pid),
            None => Ok(()),
        }
    }

    /// Tells them, as far as possible, that there is no such process.
    pub(super) fn take_back(&self) {
        if let Some(path) = &self.pid_file {
            let _ = fs::remove_file(path);
        }
    }
}

/// Sends a process's pidfd over a socket.
fn send(path: &Path, process: StartedAs, pid: Pid) -> io::Result<()> {
    let socket = UnixStream::connect(path)?;
    let pidfd = open_process(pid.as_raw())?;
    let descriptors = [pidfd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let name = [IoSlice::new(process.name().as_bytes())];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &name, &rights, flags, None)?;
    Ok(())
}

/// Writes a pid, without a newline, so that whoever reads the file finds all of it or no file.
pub(super) fn write(path: &Path, pid: impl ToString) -> Result<(), ToldError> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, path))
        .map_err(|source| {
            let _ = fs::remove_file(&new);
            ToldError::File {
                path: path.into(),
                source,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        fs::write(&path, "a longer text that was there").unwrap();
        write(&path, 42).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"42");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_left_of_one_that_cant_be_written() {
        let directory = tempfile::tempdir().unwrap();
        // A directory can't be replaced by a file.
        let path = directory.path().join("pid");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, 42).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write(&directory.path().join("no/pid"), 42).is_err());
    }
}
