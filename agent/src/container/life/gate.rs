//! Where a created container waits for its start: a socket in a directory of the caller's, so that
//! the process that starts it need not be the one that created it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::container::fork::channel::Channel;

/// The socket's name in its directory.
const NAME: &str = "start";

/// The waiting side. The init gets it once it is [let go](super::Container::let_go).
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// Makes the gate of a container that is to be created, in a directory that belongs to it alone
    /// and that only the caller can enter.
    ///
    /// # Errors
    ///
    /// The errors of making the socket; [`ErrorKind::AddrInUse`] if there is one already.
    pub fn make(directory: &Path) -> io::Result<Self> {
        let (_directory, address) = address(directory)?;
        let gate = seqpacket()?;
        bind(gate.as_raw_fd(), &address)?;
        listen(&gate, Backlog::new(1)?)?;
        Ok(Gate(gate))
    }

    /// Whether a container waits there, or was waiting when it ended.
    pub fn exists(directory: &Path) -> bool {
        directory.join(NAME).symlink_metadata().is_ok()
    }

    /// Removes what [`Gate::make`] made. It is no error if that is gone.
    ///
    /// # Errors
    ///
    /// The errors of removing the file.
    pub fn remove(directory: &Path) -> io::Result<()> {
        match std::fs::remove_file(directory.join(NAME)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Connects to the gate and closes it for others, so that nobody can start the container twice:
    /// if this process dies before it has released the container, that ends.
    ///
    /// Returns `None` if somebody was there before, or nobody waits at the gate any more.
    pub(crate) fn enter(directory: &Path) -> io::Result<Option<Channel>> {
        let (directory, address) = address(directory)?;
        let socket = seqpacket()?;
        let connected = loop {
            match connect(socket.as_raw_fd(), &address) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        match connected {
            Ok(()) => {}
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        match unlinkat(&directory, NAME, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => Ok(Some(Channel::from(socket))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn seqpacket() -> nix::Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
}

/// Returns the socket's address by way of the directory's descriptor: a socket's path has at most
/// 107 bytes.
fn address(directory: &Path) -> io::Result<(OwnedFd, UnixAddr)> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let directory = open(directory, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd());
    Ok((directory, UnixAddr::new(path.as_str())?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::container::fork::passage::Passage;

    #[test]
    fn the_word_gets_through_once_however_long_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let long = directory.path().join("x".repeat(200));
        std::fs::create_dir(&long).unwrap();
        let gate = Gate::make(&long).unwrap();
        assert!(Gate::exists(&long));
        let caller = Gate::enter(&long).unwrap().unwrap();
        assert!(!Gate::exists(&long));
        assert!(Gate::enter(&long).unwrap().is_none());
        let passage = Passage::new(false).unwrap();
        let init = passage.accept(&gate).unwrap();
        caller.release().unwrap();
        assert!(passage.hear(&init).unwrap().go);
        drop((init, gate));
        let heard = caller.wait_for_report(Duration::from_secs(5)).unwrap();
        assert_eq!(heard, None);
    }

    #[test]
    fn there_is_no_way_through_an_abandoned_gate() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Gate::enter(directory.path()).unwrap().is_none());
        drop(Gate::make(directory.path()).unwrap());
        assert!(Gate::exists(directory.path()));
        assert!(Gate::enter(directory.path()).unwrap().is_none());
        Gate::remove(directory.path()).unwrap();
        Gate::remove(directory.path()).unwrap();
        assert!(!Gate::exists(directory.path()));
    }
}
