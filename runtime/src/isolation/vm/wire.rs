//! The protocol between a command and a container's sandbox process: over a Unix socket in the
//! container's folder, in messages framed as those to the agent (`nacre_agent::protocol`). A
//! command may ask several things one after the other; the answers come in that order.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nacre_agent::protocol::{self, Failure, Request, Target, WindowSize};
use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, setsockopt,
            socket, sockopt,
        },
        stat::Mode,
        time::{TimeVal, TimeValLike},
    },
};
use oci_spec::runtime::{LinuxResources, Process};
use serde::{Deserialize, Serialize};

use crate::{log::chain, state::SOCKET};

use super::streams::Wanted;

/// What a command asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ask {
    /// Start the workload.
    Start,
    /// Stop the vCPUs.
    Pause,
    /// Let the vCPUs go on.
    Resume,
    /// Say what the VM's disk takes up on the host.
    Disk,
    /// Start a process in the container, for which the command stands until its end:
    /// [`Answer::Executed`], and then [`Answer::Exited`]. It is killed if the command goes.
    Exec(Box<Exec>),
    /// Say when the container runs out of memory, until it ends.
    Watch,
    /// Ask the agent this: everything that needs nothing of the sandbox process.
    Guest(GuestAsk),
}

/// What a command may ask of the agent, about its container. The agent's other requests
/// ([`Request`]) are the sandbox process's alone.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum GuestAsk {
    /// Send a signal to processes of the container.
    Signal { signal: i32, to: Target },
    /// Change the size of the terminal of the process with this number.
    Resize { process: u32, size: WindowSize },
    /// List the container's processes.
    Processes,
    /// Say what the container uses.
    Stats,
    /// Say what the guest's kernel has logged.
    KernelLog,
    /// Say how much the guest keeps of what was written to a root that is an overlay.
    Written,
    /// Change those limits that are given.
    Update { resources: Box<LinuxResources> },
}

impl GuestAsk {
    /// Returns the request to the agent about the container `id`.
    pub(super) fn request(self, id: &str) -> Request {
        let id = id.to_owned();
        match self {
            Self::Signal { signal, to } => Request::Signal { id, signal, to },
            Self::Resize { process, size } => Request::Resize {
                id,
                process: Some(process),
                size,
            },
            Self::Processes => Request::Processes { id },
            Self::Stats => Request::Stats { id },
            Self::KernelLog => Request::KernelLog,
            Self::Written => Request::Written,
            Self::Update { resources } => Request::Update { id, resources },
        }
    }
}

/// A process to be started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exec {
    pub(super) process: Process,
    pub(super) streams: Wanted,
    /// As in `nacre_agent::protocol::Exec`.
    pub(super) cgroups: Vec<(String, PathBuf)>,
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// What the VM's disk takes up on the host, in bytes, if it has one.
    Disk { allocated: Option<u64> },
    /// The process of this number runs. The host's ends of its streams come with the answer.
    Executed { number: u32 },
    /// The process has ended.
    Exited { status: u8 },
    /// The container ran out of memory. Sent unasked to a command that watches.
    OutOfMemory,
    /// What the agent said.
    Guest(protocol::Answer),
    /// It wasn't done: the sandbox process or the agent failed.
    Failed(Failure),
}

/// Listens in a container's folder.
pub(super) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let (_folder, path) = short(folder)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to the sandbox process that listens in a folder; returns `None` if there is none.
pub(super) fn connect(folder: &Path, timeout: Duration) -> io::Result<Option<UnixStream>> {
    let (_folder, path) = match short(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // This bounds the wait for a place in the listener's queue.
    let limit = TimeVal::milliseconds(timeout.as_millis() as i64);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    let address = UnixAddr::new(path.as_str())?;
    loop {
        match connect_socket(socket.as_raw_fd(), &address) {
            Ok(()) => return Ok(Some(socket.into())),
            Err(Errno::EINTR) => {}
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns a path to the socket through the folder's descriptor: a socket's path has at most 107
/// bytes.
fn short(folder: &Path) -> io::Result<(OwnedFd, String)> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    Ok((folder, path))
}

/// Returns the answer for what wasn't done because of an error.
pub(super) fn refused(error: &dyn std::error::Error) -> Answer {
    Answer::Failed(Failure {
        message: chain(error),
        status: 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_the_path_a_command_gets_through() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(200));
        let timeout = Duration::from_secs(5);
        assert!(connect(&long, timeout).unwrap().is_none());
        std::fs::create_dir(&long).unwrap();
        assert!(connect(&long, timeout).unwrap().is_none());
        let listener = listen(&long).unwrap();
        assert!(connect(&long, timeout).unwrap().is_some());
        listener.accept().unwrap();
        drop(listener);
        assert!(connect(&long, timeout).unwrap().is_none());
    }

    #[test]
    fn a_full_queue_is_waited_at_for_a_bounded_time() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = listen(directory.path()).unwrap();
        let mut waiting = Vec::new();
        // Nobody accepts.
        let error = loop {
            match connect(directory.path(), Duration::from_millis(50)) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10_000);
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
