//! A process's terminal: what the host sends is typed at it, and what it shows goes to the host.
//!
//! The agent has the master. The host hangs up by closing its connection: the master is closed
//! then, too, which has the kernel tell the terminal's session (SIGHUP).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nacre_agent::protocol::WindowSize;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use nix::unistd::{read, write};
use rustix::termios::{Winsize, tcsetwinsize};

use super::relay::Progress;

/// What is carried at a time, in bytes: what a terminal takes of a line.
const CHUNK: usize = 4096;

/// Chunks in a row before others get their turn.
const TURN: usize = 64;

/// Both directions of a terminal. Dropping it hangs up, on both sides.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    connection: OwnedFd,
    /// Came from the host, and isn't typed yet.
    typed: Vec<u8>,
    /// Was shown, and hasn't gone to the host yet.
    shown: Vec<u8>,
    /// Nobody has the terminal open any more, so nothing more is shown.
    closed: bool,
    draining: bool,
}

/// What reading gave.
enum Read {
    Some,
    NothingNow,
    End,
}

impl Terminal {
    pub(super) fn new(master: OwnedFd, connection: OwnedFd) -> io::Result<Self> {
        for fd in [&master, &connection] {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(Self {
            master,
            connection,
            typed: Vec::new(),
            shown: Vec::new(),
            closed: false,
            draining: false,
        })
    }

    /// Gives it another size, of which the kernel tells its foreground processes (SIGWINCH).
    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.master, size)?)
    }

    /// Nobody is left to write to it from now on but who was meant to have ended: it ends where
    /// nothing more is shown.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// What to poll for: the connection is always the last.
    pub(super) fn interests(&self) -> Vec<PollFd<'_>> {
        let mut of_master = PollFlags::empty();
        of_master.set(PollFlags::POLLIN, self.shown.is_empty() && !self.closed);
        of_master.set(PollFlags::POLLOUT, !self.typed.is_empty() && !self.closed);
        // That the host hangs up shows even while nothing can be typed.
        let mut of_connection = PollFlags::from_bits_retain(libc::POLLRDHUP);
        of_connection.set(PollFlags::POLLIN, self.typed.is_empty());
        of_connection.set(PollFlags::POLLOUT, !self.shown.is_empty());
        let mut fds = Vec::with_capacity(2);
        // Left out where there is nothing to be done: poll reports that all have closed it
        // over and over.
        if !of_master.is_empty() {
            fds.push(PollFd::new(self.master.as_fd(), of_master));
        }
        fds.push(PollFd::new(self.connection.as_fd(), of_connection));
        fds
    }

    /// Goes on after `poll`, which found `events` at the connection: `POLLHUP` for `POLLRDHUP`.
    pub(super) fn advance(&mut self, events: PollFlags) -> Progress {
        for _ in 0..TURN {
            let shown = match self.show() {
                Ok(more) => more,
                Err(_) => return Progress::Done,
            };
            let typed = match self.take_typed(events) {
                Ok(more) => more,
                Err(HungUp) => return Progress::Done,
            };
            if self.draining && !shown && self.shown.is_empty() {
                let _ = shutdown(self.connection.as_raw_fd(), Shutdown::Write);
                return Progress::Done;
            }
            if !shown && !typed {
                break;
            }
        }
        Progress::Waiting
    }

    /// Carries a chunk to the host; whether there may be more. An error is the host's end.
    fn show(&mut self) -> Result<bool, Errno> {
        if self.shown.is_empty() && !self.closed {
            match receive(&self.master, &mut self.shown) {
                Read::Some => {}
                Read::NothingNow => return Ok(false),
                Read::End => {
                    // Somebody may still open it by its name; the host is told when the process
                    // has ended.
                    self.closed = true;
                    self.typed.clear();
                }
            }
        }
        if self.shown.is_empty() {
            return Ok(false);
        }
        let flags = MsgFlags::MSG_NOSIGNAL;
        match send(self.connection.as_raw_fd(), &self.shown, flags) {
            Ok(sent) => drop(self.shown.drain(..sent)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Types a chunk; whether there may be more.
    fn take_typed(&mut self, events: PollFlags) -> Result<bool, HungUp> {
        if self.typed.is_empty() {
            match receive(&self.connection, &mut self.typed) {
                Read::Some => {}
                Read::NothingNow => return Ok(false),
                Read::End => return Err(HungUp),
            }
        }
        if self.closed || self.draining {
            self.typed.clear();
            return Ok(true);
        }
        match write(&self.master, &self.typed) {
            Ok(written) => drop(self.typed.drain(..written)),
            Err(Errno::EINTR) => {}
            // Nobody reads what is typed, and nobody is there to type.
            Err(Errno::EAGAIN) if events.contains(PollFlags::POLLHUP) => return Err(HungUp),
            Err(Errno::EAGAIN) => return Ok(false),
            Err(_) => self.typed.clear(),
        }
        Ok(true)
    }
}

/// The host has hung up.
struct HungUp;

/// Appends a chunk to `buffer`, which is empty.
fn receive(from: &OwnedFd, buffer: &mut Vec<u8>) -> Read {
    buffer.resize(CHUNK, 0);
    let read = read(from, buffer);
    buffer.truncate(*read.as_ref().unwrap_or(&0));
    match read {
        Ok(1..) => Read::Some,
        Err(Errno::EAGAIN | Errno::EINTR) => Read::NothingNow,
        // A master gives EIO once nobody has its terminal any more.
        Ok(0) | Err(_) => Read::End,
    }
}
