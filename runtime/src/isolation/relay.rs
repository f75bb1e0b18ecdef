//! Carries bytes, whatever they are, from one descriptor to another: in a thread of its own, or
//! between the other events of a thread that waits.

use std::{
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
};

use nix::{
    errno::Errno,
    poll::PollFlags,
    unistd::{read, write},
};

use crate::isolation::wait::{Interest, is_hung_up, wait};

/// One direction: what can be read from `source` is written to `sink`. A slow sink slows the source.
#[derive(Debug)]
pub(super) struct Relay<S, D> {
    source: S,
    sink: D,
    buffer: Box<[u8]>,
    /// What has been read and not yet been written.
    rest: Range<usize>,
    end: Option<End>,
}

/// Why nothing more is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The source has nothing more, and all that it had has been written.
    Source,
    /// The sink takes nothing more.
    Sink(Errno),
}

/// What one call has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something has been read or written.
    Made,
    /// The descriptor wasn't ready, or a signal came first.
    Blocked,
    Ended(End),
}

impl<S: AsFd, D: AsFd> Relay<S, D> {
    /// Carries as many bytes at a time as `size` says.
    pub(super) fn new(source: S, sink: D, size: usize) -> Self {
        Self {
            source,
            sink,
            buffer: vec![0; size].into(),
            rest: 0..0,
            end: None,
        }
    }

    pub(super) fn source(&self) -> &S {
        &self.source
    }

    /// Whether something has been read that isn't written yet.
    pub(super) fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Returns what has to be waited for before the next call of [`Self::advance`]; `None` after
    /// the end, when a wait for a hang-up would be over at once, again and again.
    pub(super) fn interest<T: Copy>(&self, token: T) -> Option<Interest<'_, T>> {
        self.end.is_none().then(|| {
            let (fd, flags) = self.awaited();
            Interest::new(token, fd, flags)
        })
    }

    fn awaited(&self) -> (BorrowedFd<'_>, PollFlags) {
        if self.has_rest() {
            (self.sink.as_fd(), PollFlags::POLLOUT)
        } else {
            (self.source.as_fd(), PollFlags::POLLIN)
        }
    }

    /// Writes what has been read, or else reads: one call, which blocks if the descriptor does and
    /// isn't ready.
    pub(super) fn advance(&mut self) -> Progress {
        if let Some(end) = self.end {
            return Progress::Ended(end);
        }
        let is_write = self.has_rest();
        let carried = if is_write {
            write(&self.sink, &self.buffer[self.rest.clone()])
        } else {
            read(&self.source, &mut self.buffer)
        };
        match carried {
            // The master of a terminal that nobody has open is hung up without being ready: a wait
            // for it would be over at once, again and again.
            Err(Errno::EAGAIN) if is_write && is_hung_up(self.sink.as_fd()) => {
                self.end(End::Sink(Errno::EIO))
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Progress::Blocked,
            Ok(written) if is_write => {
                self.rest.start += written;
                Progress::Made
            }
            Err(error) if is_write => self.end(End::Sink(error)),
            Ok(length @ 1..) => {
                self.rest = 0..length;
                Progress::Made
            }
            // A terminal's master gives EIO once nobody has its slave open any more.
            Ok(0) | Err(_) => self.end(End::Source),
        }
    }

    fn end(&mut self, end: End) -> Progress {
        self.rest = 0..0;
        self.end = Some(end);
        Progress::Ended(end)
    }

    /// Carries until either end is reached, and returns which.
    pub(super) fn run(mut self) -> End {
        loop {
            match self.advance() {
                Progress::Made => {}
                // Somebody else may have made this file description non-blocking.
                Progress::Blocked => drop(wait(self.interest(()).into_iter().collect(), None)),
                Progress::Ended(end) => return end,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Write},
        os::unix::net::UnixStream,
        thread,
    };

    use nix::unistd::pipe;
    use rustix::{
        io::ioctl_fionbio,
        pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    };

    use super::*;

    #[test]
    fn what_was_read_is_written() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        let mut relay = Relay::new(from, to, 4096);
        assert!(relay.interest(()).is_some() && !relay.has_rest());
        write(&writer, b"hello").unwrap();
        assert_eq!(relay.advance(), Progress::Made);
        assert!(relay.interest(()).is_some() && relay.has_rest());
        assert_eq!(relay.advance(), Progress::Made);
        assert!(relay.interest(()).is_some() && !relay.has_rest());
        let mut chunk = [0; 8];
        assert_eq!(read(&reader, &mut chunk), Ok(5));
        assert_eq!(&chunk[..5], b"hello");
        drop(writer);
        assert_eq!(relay.advance(), Progress::Ended(End::Source));
        assert!(relay.interest(()).is_none() && !relay.has_rest());
    }

    #[test]
    fn a_reader_that_has_gone_ends_it() {
        let (from, writer) = pipe().unwrap();
        let (reader, to) = pipe().unwrap();
        drop(reader);
        let mut relay = Relay::new(from, to, 4096);
        write(&writer, b"lost").unwrap();
        assert_eq!(relay.advance(), Progress::Made);
        // Rust's start-up code ignores SIGPIPE.
        let end = Progress::Ended(End::Sink(Errno::EPIPE));
        assert_eq!(relay.advance(), end);
        assert!(relay.interest(()).is_none() && !relay.has_rest());
        assert_eq!(relay.advance(), end);
    }

    #[test]
    fn everything_is_copied_and_a_slow_reader_waited_for() {
        let (from, mut writer) = UnixStream::pair().unwrap();
        let (mut reader, to) = UnixStream::pair().unwrap();
        // As somebody else may have made them: both ends non-blocking.
        from.set_nonblocking(true).unwrap();
        to.set_nonblocking(true).unwrap();
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
        let sent = bytes.clone();
        let write = thread::spawn(move || writer.write_all(&sent).unwrap());
        let relay = thread::spawn(move || Relay::new(from, to, 64 << 10).run());
        let mut received = Vec::new();
        thread::sleep(std::time::Duration::from_millis(50));
        reader.read_to_end(&mut received).unwrap();
        assert!(received == bytes);
        write.join().unwrap();
        assert_eq!(relay.join().unwrap(), End::Source);
    }

    #[test]
    fn a_reader_that_has_gone_ends_a_thread() {
        let (from, mut writer) = UnixStream::pair().unwrap();
        let (reader, to) = UnixStream::pair().unwrap();
        drop(reader);
        writer.write_all(b"x").unwrap();
        assert_eq!(Relay::new(from, to, 1).run(), End::Sink(Errno::EPIPE));
    }

    #[test]
    fn a_full_terminal_that_nobody_has_open_ends_it() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        drop(ioctl_tiocgptpeer(&master, flags).unwrap());
        ioctl_fionbio(&master, true).unwrap();
        let mut relay = Relay::new(File::open("/dev/zero").unwrap(), master, 4096);
        let ended = (0..1000).find_map(|_| match relay.advance() {
            Progress::Ended(end) => Some(end),
            Progress::Made | Progress::Blocked => None,
        });
        assert_eq!(ended, Some(End::Sink(Errno::EIO)));
    }
}
