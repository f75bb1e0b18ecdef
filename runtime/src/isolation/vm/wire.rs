//! What a command says to a container's sandbox process, and where: over a Unix socket in the
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

use nacre_agent::protocol::{self, Failure};
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
use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize};

use super::streams::Wanted;

/// The socket's name in the container's folder, which nobody but its owner can enter.
pub(crate) const SOCKET: &str = "sandbox";

/// What a command asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ask {
    /// Let the workload go.
    Start,
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Resume,
    /// What the VM's disk takes of the host.
    Disk,
    /// Start a process in the container, which the command stands for until its end:
    /// [`Answer::Executed`], and then [`Answer::Exited`]. It is killed if the command goes.
    Exec(Box<Exec>),
    /// Say when the container runs out of memory, until it ends.
    Watch,
    /// What the agent is to be asked: everything that needs nothing of the sandbox process.
    Guest(Box<protocol::Request>),
}

/// A process to be started.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exec {
    pub(super) process: Process,
    pub(super) streams: Wanted,
    /// As in `nacre_agent::protocol::Exec`.
    pub(super) cgroups: Vec<(String, PathBuf)>,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// What the VM's disk takes of the host, in bytes, if it has one.
    Disk { allocated: Option<u64> },
    /// The process of this number runs. The host's ends of its streams come with it.
    Executed { number: u32 },
    /// It has ended.
    Exited { status: u8 },
    /// It ran out of memory. Of its own accord, for one that watches.
    OutOfMemory,
    /// What the agent said.
    Guest(protocol::Answer),
    /// It wasn't done: by the sandbox process, or by the agent.
    Failed(Failure),
}

/// Listens in a container's folder.
pub(super) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let (_folder, path) = short(folder)?;
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to the sandbox process that listens in a folder; `None` if there is none.
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

/// The socket's path by way of the folder's descriptor: a socket's path has at most 107 bytes.
fn short(folder: &Path) -> io::Result<(OwnedFd, String)> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    Ok((folder, path))
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
