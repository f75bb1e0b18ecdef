//! A container's terminal in the foreground: what is typed at nacre's own terminal goes to the
//! container's, and what that shows is shown here. Nacre's is raw meanwhile, so that control
//! characters mean what the container's makes of them.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{read, write},
};
use rustix::termios::tcsetwinsize;

use crate::isolation::console::Raw;

/// What is carried at a time, in bytes: a pipe that can be written to takes this much without
/// blocking (pipe(7), `PIPE_BUF`).
const CHUNK: usize = 4096;

/// How often something left in a container's terminal is shown after its end: the kernel keeps
/// less than that many chunks, but a process outside of the container may still write.
const LEFT: usize = 256;

/// The container's terminal, and ours.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    ours: Raw,
    stdin: OwnedFd,
    stdout: OwnedFd,
    typed: Carrier,
    shown: Carrier,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Interrupt,
    Stdin,
    Stdout,
    Master,
}

impl Terminal {
    /// Makes the container's as large as ours.
    pub(super) fn new(master: OwnedFd, ours: Raw) -> io::Result<Self> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let terminal = Self {
            master,
            ours,
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            typed: Carrier::default(),
            shown: Carrier::default(),
        };
        terminal.resize();
        Ok(terminal)
    }

    /// Makes the container's terminal as large as ours. If that can't be, nobody is hurt.
    pub(super) fn resize(&self) {
        if let Some(size) = self.ours.size() {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Carries what there is to carry until `interrupt` can be read.
    pub(super) fn carry_until(&mut self, interrupt: BorrowedFd<'_>) -> nix::Result<()> {
        loop {
            let ready = self.wait(interrupt)?;
            let mut interrupted = false;
            for (source, events) in ready {
                match source {
                    Source::Interrupt => interrupted = true,
                    Source::Stdin => self.typed.read(&self.stdin),
                    Source::Stdout => self.shown.write(&self.stdout),
                    Source::Master => {
                        if events.contains(PollFlags::POLLOUT) {
                            self.typed.write(&self.master);
                        }
                        // Input, an error or a hang-up, which reading tells.
                        if self.shown.has_room() && events != PollFlags::POLLOUT {
                            self.shown.read(&self.master);
                        }
                    }
                }
            }
            if interrupted {
                return Ok(());
            }
        }
    }

    /// Shows what the container has left.
    pub(super) fn finish(mut self) {
        for _ in 0..LEFT {
            if self.shown.has_room() {
                self.shown.read(&self.master);
            }
            if !self.shown.has_some() {
                break;
            }
            self.shown.write(&self.stdout);
        }
    }

    /// Waits until something can be done, and says what.
    fn wait(&self, interrupt: BorrowedFd<'_>) -> nix::Result<Vec<(Source, PollFlags)>> {
        // What isn't waited for is left out: poll reports hang-ups unasked.
        let mut of_master = PollFlags::empty();
        of_master.set(PollFlags::POLLIN, self.shown.has_room());
        of_master.set(PollFlags::POLLOUT, self.typed.has_some());
        let mut sources = vec![Source::Interrupt];
        let mut fds = vec![PollFd::new(interrupt, PollFlags::POLLIN)];
        let mut wait_for = |source, fd, events| {
            sources.push(source);
            fds.push(PollFd::new(fd, events));
        };
        if self.typed.has_room() {
            wait_for(Source::Stdin, self.stdin.as_fd(), PollFlags::POLLIN);
        }
        if self.shown.has_some() {
            wait_for(Source::Stdout, self.stdout.as_fd(), PollFlags::POLLOUT);
        }
        if !of_master.is_empty() {
            wait_for(Source::Master, self.master.as_fd(), of_master);
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR));
        let ready = sources.into_iter().zip(events);
        Ok(ready.filter(|(_, events)| !events.is_empty()).collect())
    }
}

/// What has been read and not yet been written.
#[derive(Debug, Default)]
struct Carrier {
    bytes: Vec<u8>,
    /// There is nothing more to come.
    ended: bool,
    /// Nobody takes it any more. It is read all the same, or who writes it would wait for ever.
    discard: bool,
}

impl Carrier {
    fn has_room(&self) -> bool {
        self.bytes.is_empty() && !self.ended
    }

    fn has_some(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Reads from what can be read from.
    fn read(&mut self, from: &OwnedFd) {
        let mut chunk = [0; CHUNK];
        match read(from, &mut chunk) {
            Ok(1..) if self.discard => {}
            Ok(length @ 1..) => self.bytes.extend_from_slice(&chunk[..length]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // A master gives EIO once nobody has its terminal any more.
            Ok(0) | Err(_) => self.ended = true,
        }
    }

    /// Writes to what can be written to.
    fn write(&mut self, to: &OwnedFd) {
        match write(to, &self.bytes) {
            Ok(length) => drop(self.bytes.drain(..length)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => {
                self.bytes.clear();
                self.discard = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::pipe;

    use super::*;

    #[test]
    fn what_was_read_is_written() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        let mut carrier = Carrier::default();
        assert!(carrier.has_room() && !carrier.has_some());
        write(&writer, b"hello").unwrap();
        carrier.read(&from);
        assert!(carrier.has_some() && !carrier.has_room());
        carrier.write(&to);
        assert!(carrier.has_room() && !carrier.has_some());
        let mut chunk = [0; 8];
        assert_eq!(read(&reader, &mut chunk), Ok(5));
        assert_eq!(&chunk[..5], b"hello");
        drop(writer);
        carrier.read(&from);
        assert!(!carrier.has_room() && !carrier.has_some());
    }

    #[test]
    fn who_has_no_reader_can_still_write() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        drop(reader);
        let mut carrier = Carrier::default();
        write(&writer, b"lost").unwrap();
        carrier.read(&from);
        // Rust's start has SIGPIPE ignored.
        carrier.write(&to);
        for _ in 0..3 {
            write(&writer, b"lost, too").unwrap();
            carrier.read(&from);
            assert!(carrier.has_room() && !carrier.has_some());
        }
    }
}
