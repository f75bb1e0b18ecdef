//! Carries a process's terminal: types what the host sends, and sends the host what the terminal
//! shows.
//!
//! The agent has the master. The host hangs up by closing its connection. The master is then closed
//! too, and the kernel notifies the terminal's session (SIGHUP).

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nacre_agent::protocol::WindowSize;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{read, write};
use rustix::termios::{Winsize, tcsetwinsize};

use super::relay::Progress;

/// How much is carried at a time, in bytes: as much of a line as a terminal takes.
const CHUNK: usize = 4096;

/// Chunks in a row before other streams get their turn.
const TURN: usize = 64;

/// How long it rests after it has carried very little. A program writes to its terminal a line at a
/// time, and carrying each line by itself would interrupt the host, and the program as well, since
/// the agent has precedence over it.
const REST: Duration = Duration::from_millis(2);

/// Less than this counts as very little, in bytes.
const FEW: usize = CHUNK / 2;

/// Both directions of a terminal. Dropping it hangs up, on both sides.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    connection: OwnedFd,
    /// Received from the host, but not typed yet.
    typed: Vec<u8>,
    /// Shown, but not sent to the host yet.
    shown: Vec<u8>,
    /// Nobody has the terminal open any more, so nothing more is shown.
    closed: bool,
    draining: bool,
    /// Readable when it has rested for long enough.
    alarm: TimerFd,
    /// What is shown may wait for the alarm.
    resting: bool,
}

/// The result of reading.
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
            alarm: TimerFd::new(
                ClockId::CLOCK_MONOTONIC,
                TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
            )?,
            resting: false,
        })
    }

    /// Changes its size, of which the kernel notifies its foreground processes (SIGWINCH).
    pub(super) fn resize(&self, size: WindowSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.master, size)?)
    }

    /// From here on, ends when nothing more is shown: only processes that should have ended could
    /// still write to it.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Returns what to poll for; the connection is always last.
    pub(super) fn interests(&self) -> Vec<PollFd<'_>> {
        let mut of_master = PollFlags::empty();
        let shows = self.shown.is_empty() && !self.closed;
        of_master.set(PollFlags::POLLIN, shows && !self.resting);
        of_master.set(PollFlags::POLLOUT, !self.typed.is_empty() && !self.closed);
        // The host's hang-up is reported even while nothing can be typed.
        let mut of_connection = PollFlags::from_bits_retain(libc::POLLRDHUP);
        of_connection.set(PollFlags::POLLIN, self.typed.is_empty());
        of_connection.set(PollFlags::POLLOUT, !self.shown.is_empty());
        let mut fds = Vec::with_capacity(3);
        if shows && self.resting {
            fds.push(PollFd::new(self.alarm.as_fd(), PollFlags::POLLIN));
        }
        // Left out if there is nothing to do: poll would report over and over that all have closed
        // it.
        if !of_master.is_empty() {
            fds.push(PollFd::new(self.master.as_fd(), of_master));
        }
        fds.push(PollFd::new(self.connection.as_fd(), of_connection));
        fds
    }

    /// Continues after `poll`, which found `events` at the connection: `POLLHUP` for `POLLRDHUP`.
    pub(super) fn advance(&mut self, events: PollFlags) -> Progress {
        let mut carried = 0;
        for _ in 0..TURN {
            let shown = match self.show() {
                Ok(shown) => shown,
                Err(_) => return Progress::Done,
            };
            let typed = match self.take_typed(events) {
                Ok(more) => more,
                Err(HungUp) => return Progress::Done,
            };
            if self.draining && shown.is_none() && self.shown.is_empty() {
                let _ = shutdown(self.connection.as_raw_fd(), Shutdown::Write);
                return Progress::Done;
            }
            if shown.is_none() && !typed {
                break;
            }
            carried += shown.unwrap_or(0);
        }
        self.resting = (1..FEW).contains(&carried) && self.set_alarm().is_ok();
        Progress::Waiting
    }

    fn set_alarm(&self) -> nix::Result<()> {
        let once = Expiration::OneShot(TimeSpec::from_duration(REST));
        self.alarm.set(once, TimerSetTimeFlags::empty())
    }

    /// Sends a chunk to the host, or part of it. Returns how much, or `None` if that is all for
    /// now. An error means that the host is gone.
    fn show(&mut self) -> Result<Option<usize>, Errno> {
        if self.shown.is_empty() && !self.closed {
            match receive(&self.master, &mut self.shown) {
                Read::Some => {}
                Read::NothingNow => return Ok(None),
                Read::End => {
                    // Somebody may still open it by its name; the host is told when the process has
                    // ended.
                    self.closed = true;
                    self.typed.clear();
                }
            }
        }
        if self.shown.is_empty() {
            return Ok(None);
        }
        let flags = MsgFlags::MSG_NOSIGNAL;
        match send(self.connection.as_raw_fd(), &self.shown, flags) {
            Ok(sent) => {
                self.shown.drain(..sent);
                Ok(Some(sent))
            }
            Err(Errno::EINTR) => Ok(Some(0)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Types a chunk; returns whether there may be more.
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
        // A master gives EIO once nobody has its terminal open any more.
        Ok(0) | Err(_) => Read::End,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::poll::{PollTimeout, poll};
    use nix::pty::openpty;

    use super::*;

    #[test]
    fn what_comes_soon_after_a_line_waits_for_more() {
        let pair = openpty(None, None).unwrap();
        let (connection, mut host) = UnixStream::pair().unwrap();
        let master = pair.master.as_raw_fd();
        let mut terminal = Terminal::new(pair.master, connection.into()).unwrap();
        let mut program = File::from(pair.slave);
        let mut heard = |terminal: &mut Terminal| {
            let mut ready = terminal.interests();
            assert!(poll(&mut ready, PollTimeout::from(5000_u16)).unwrap() > 0);
            assert_eq!(terminal.advance(PollFlags::empty()), Progress::Waiting);
            let mut chunk = [0; 100];
            let length = host.read(&mut chunk).unwrap();
            String::from_utf8_lossy(&chunk[..length]).into_owned()
        };
        let looks = |terminal: &Terminal| {
            let fds = terminal.interests();
            fds.iter().any(|fd| fd.as_fd().as_raw_fd() == master)
        };
        program.write_all(b"one\n").unwrap();
        assert_eq!(heard(&mut terminal), "one\r\n");
        assert!(!looks(&terminal));
        program.write_all(b"two\n").unwrap();
        assert!(!looks(&terminal));
        assert_eq!(heard(&mut terminal), "two\r\n");
        // Nothing more comes, so the next word is sent at once.
        let mut alarm = terminal.interests();
        assert!(poll(&mut alarm, PollTimeout::from(5000_u16)).unwrap() > 0);
        assert_eq!(terminal.advance(PollFlags::empty()), Progress::Waiting);
        assert!(looks(&terminal));
    }
}
