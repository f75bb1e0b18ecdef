//! `process.terminal`: a pseudoterminal of the container's own devpts
//! ([pty(7)](https://man7.org/linux/man-pages/man7/pty.7.html)).
//!
//! Nothing of it is reached by a path that the image could influence (CVE-2025-52565): the devpts
//! is checked before anything in it is opened, and the kernel gives the slave through the master.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt,
    sockopt,
};
use nix::sys::stat::{Mode, SFlag, fstat, makedev};
use nix::sys::statfs::{FsType, fstatfs};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::stdio;
use crate::container::error::{InitError, Step, StepError};
use crate::container::kernel::mount_calls::attach;
use crate::container::kernel::safe_path::{self, FileKind};
use crate::container::kernel::sockets::send_fd;

/// As in `linux/magic.h`.
const DEVPTS_SUPER_MAGIC: FsType = FsType(0x1cd1);

/// What runc sends along with the master: the name of the file that it opened.
const MASTERS_NAME: &[u8] = b"/dev/ptmx";

/// Why a terminal can't be sent to a socket.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleSocketError {
    /// It isn't a socket, or can't be inspected.
    #[error("the console socket isn't a socket that can be used")]
    NotASocket(#[source] io::Error),
    /// It is a socket of the wrong kind.
    #[error(
        "the console socket is of the wrong kind: it must be an AF_UNIX socket of type SOCK_STREAM"
    )]
    WrongKind,
    /// There is no terminal to send.
    #[error("the console socket has no use: process.terminal is false")]
    NoTerminal,
    /// The terminal couldn't be sent.
    #[error("the console socket doesn't take the terminal")]
    Send(#[source] io::Error),
}

/// A pseudoterminal.
pub(crate) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    /// Makes a pseudoterminal of the devpts at `/dev/pts` in `root`.
    pub(crate) fn make(root: BorrowedFd<'_>, size: Option<Winsize>) -> Result<Self, InitError> {
        let devpts = safe_path::open(root, Path::new("/dev/pts"))
            .step(|| "open /dev/pts in the container, for process.terminal")?;
        let kind = fstatfs(&devpts).step(|| "look at /dev/pts in the container")?;
        if kind.filesystem_type() != DEVPTS_SUPER_MAGIC {
            return Err(InitError::NotDevpts);
        }
        let master = openat(
            &devpts,
            "ptmx",
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .step(|| "open /dev/pts/ptmx in the container")?;
        // Something else may be mounted over it.
        let status = fstat(&master).step(|| "look at /dev/pts/ptmx in the container")?;
        let is_device = SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits());
        if is_device != SFlag::S_IFCHR || status.st_rdev != makedev(5, 2) {
            return Err(InitError::NotThatDevice {
                path: "/dev/pts/ptmx".to_owned(),
            });
        }
        unlockpt(&master).step(|| "unlock the terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).step(|| "open the terminal")?;
        if let Some(size) = size {
            tcsetwinsize(&slave, size).step(|| "set process.consoleSize")?;
        }
        Ok(Terminal { master, slave })
    }

    /// Binds it to `/dev/console` in `root`.
    pub(crate) fn bind_console(&self, root: BorrowedFd<'_>) -> Result<(), InitError> {
        let dev = safe_path::open_or_make(root, Path::new("/dev"), FileKind::Directory)
            .step(|| "open /dev in the container")?;
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let console = || openat(&dev, "console", flags | OFlag::O_PATH, Mode::empty());
        let target = match console() {
            Err(Errno::ENOENT) => {
                let flags = flags | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                openat(&dev, "console", flags, Mode::S_IRUSR | Mode::S_IWUSR)
            }
            other => other,
        };
        let target = target.step(|| "make /dev/console in the container")?;
        let kind = fstat(&target).step(|| "look at /dev/console in the container")?;
        if kind.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits() {
            return Err(InitError::ConsoleIsLink);
        }
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let slave = open_tree(&self.slave, "", flags).step(|| "bind the terminal")?;
        attach(&slave, &target).step(|| "mount the terminal at /dev/console")?;
        Ok(())
    }

    /// Makes it the standard streams of this process. Returns the master.
    pub(crate) fn become_streams(self) -> Result<OwnedFd, StepError> {
        stdio::install([&self.slave; 3]).step(|| "set the standard streams up")?;
        Ok(self.master)
    }
}

/// Checks that a terminal, if there is one, can be sent to `socket`.
///
/// # Errors
///
/// Any [`ConsoleSocketError`] but the last.
pub fn check_socket(socket: BorrowedFd<'_>, has_terminal: bool) -> Result<(), ConsoleSocketError> {
    let failed = |error: Errno| ConsoleSocketError::NotASocket(error.into());
    let kind = getsockopt(&socket, sockopt::SockType).map_err(failed)?;
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd()).map_err(failed)?;
    if kind != SockType::Stream || address.family() != Some(AddressFamily::Unix) {
        return Err(ConsoleSocketError::WrongKind);
    }
    if has_terminal {
        Ok(())
    } else {
        Err(ConsoleSocketError::NoTerminal)
    }
}

/// Sends the master of a terminal, without waiting for the receiver.
///
/// # Errors
///
/// [`ConsoleSocketError::Send`].
pub fn send(socket: &OwnedFd, master: &OwnedFd) -> Result<(), ConsoleSocketError> {
    let (socket, master) = (socket.as_fd(), master.as_fd());
    send_fd(socket, MASTERS_NAME, master, MsgFlags::MSG_DONTWAIT).map_err(ConsoleSocketError::Send)
}
