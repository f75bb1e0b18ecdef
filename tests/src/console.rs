//! Terminals, the caller's end of a container's and a caller's own, and sockets that receive
//! descriptors.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use crate::case::Case;
use crate::nacre::Running;

/// How long a terminal, or what is written to it, may take to arrive: a VM boots first, perhaps in
/// the testbed on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A socket that receives a descriptor: a terminal (`--console-socket`) or a pidfd
/// (`--pidfd-socket`).
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Makes a socket in a directory.
    pub fn listen(directory: &Path) -> Self {
        let path = directory.join("console");
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { listener, path }
    }

    /// Returns the socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the terminal.
    ///
    /// # Panics
    ///
    /// If none comes.
    #[track_caller]
    pub fn receive(&self) -> Terminal {
        let (name, master) = self.receive_descriptor();
        Terminal {
            name,
            master: File::from(master),
        }
    }

    /// Waits for a descriptor. Returns the data that came with it, too.
    ///
    /// # Panics
    ///
    /// If none comes.
    #[track_caller]
    pub fn receive_descriptor(&self) -> (String, OwnedFd) {
        let end = Instant::now() + PATIENCE;
        let connection = loop {
            match self.listener.accept() {
                Ok((connection, _)) => break connection,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < end, "nobody connected");
                    thread::sleep(Duration::from_millis(5));
                }
                Err(e) => panic!("{e}"),
            }
        };
        connection.set_nonblocking(false).unwrap();
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut name = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut name)];
        let mut space = cmsg_space!([RawFd; 2]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<()>(connection.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
        let descriptors: Vec<RawFd> = message
            .cmsgs()
            .unwrap()
            .filter_map(|part| match part {
                ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        let length = message.bytes;
        assert_eq!(descriptors.len(), 1, "descriptors received");
        // SAFETY: the kernel has just made it for this process, and nothing else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptors[0]) };
        let name = String::from_utf8_lossy(&name[..length]).into_owned();
        (name, descriptor)
    }
}

/// A container's terminal.
pub struct Terminal {
    /// The data that came with it: its path in the container.
    pub name: String,
    master: File,
}

impl Terminal {
    /// Types text.
    pub fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until a text has come, and returns everything up to and including it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(text) {
            let so_far = String::from_utf8_lossy(&seen).into_owned();
            assert!(Instant::now() < end, "no {text:?} in {so_far:?}");
            let mut byte = [0];
            if !self.is_readable() {
                continue;
            }
            match self.master.read(&mut byte) {
                Ok(1) => seen.push(byte[0]),
                // EIO: the other end is closed everywhere.
                end => panic!("{end:?}: no {text:?} in {so_far:?}"),
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Returns whether data or the end can be read within a moment.
    fn is_readable(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.master.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one structure, which lives as long as the call.
        unsafe { libc::poll(&raw mut poll, 1, 100) == 1 }
    }

    /// Sets its size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the call reads the structure it is given.
        let done =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
}

impl Case {
    /// Runs a shell script at a terminal of its own, provided by script(1), which types what it
    /// reads and ends with the script's status.
    ///
    /// Its input stays open until then: script(1) types an end of file at the end of its own, and
    /// an engine that gets it early (Podman 4.3, with runc too) may drop what the container prints.
    pub fn at_a_terminal(&self, session: &str) -> Running {
        let mut script = self.mark(Command::new("script"));
        script.args(["--quiet", "--return", "--command", session, "/dev/null"]);
        self.spawn(script).attended()
    }
}

/// Returns a command, with its environment, in shell syntax.
pub fn in_shell(command: &Command) -> String {
    let quoted = |word: &OsStr| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''"));
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_str().unwrap(), quoted(value?))));
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words: Vec<String> = variables.chain(words.map(quoted)).collect();
    words.join(" ")
}
