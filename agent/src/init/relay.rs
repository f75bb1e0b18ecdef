//! Carries one direction of a standard stream: from the host's connection to the workload's pipe,
//! or back.
//!
//! Bytes go from one to the other within the kernel (splice(2)). None are buffered here: what the
//! reader doesn't take stays in the writer's pipe or in the connection, and slows the writer down.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

/// Bytes for one splice: a pipe's default capacity.
const CHUNK: usize = 64 << 10;

/// Splices in a row before other relays get their turn.
const TURN: usize = 16;

/// The end that a relay waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    Source,
    Destination,
}

/// Whether a relay has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Yes, once its descriptors are ready.
    Waiting,
    /// No: everything has arrived, or can't any more because the reader is gone.
    Done,
}

/// Carries a stream's bytes. Dropping it closes both ends.
#[derive(Debug)]
pub(super) struct Relay {
    source: OwnedFd,
    destination: OwnedFd,
    waits_for: WaitsFor,
    draining: bool,
}

impl Relay {
    /// Relays from `source` to `destination`, one of which is a pipe.
    pub(super) fn new(source: OwnedFd, destination: OwnedFd) -> nix::Result<Self> {
        for fd in [&source, &destination] {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(Relay {
            source,
            destination,
            waits_for: WaitsFor::Source,
            draining: false,
        })
    }

    /// From here on, treats an empty source as ended: nobody is left to write to it, but something
    /// may hold it open.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Returns what to poll for. The destination is always last: it shows that the reader is gone
    /// even while the source is silent.
    pub(super) fn interests(&self) -> Vec<PollFd<'_>> {
        let source = self.source.as_fd();
        let destination = self.destination.as_fd();
        match self.waits_for {
            WaitsFor::Source => vec![
                PollFd::new(source, PollFlags::POLLIN),
                PollFd::new(destination, PollFlags::empty()),
            ],
            // Without the source, whose end would be reported over and over.
            WaitsFor::Destination => vec![PollFd::new(destination, PollFlags::POLLOUT)],
        }
    }

    /// Continues after `poll`, which found `events` at the destination.
    pub(super) fn advance(&mut self, events: PollFlags) -> Progress {
        if events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
            return Progress::Done;
        }
        for _ in 0..TURN {
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
            match splice(&self.source, None, &self.destination, None, CHUNK, flags) {
                Ok(0) => return self.finish(),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.waits_for = if self.source_is_readable() {
                        WaitsFor::Destination
                    } else if self.draining {
                        return self.finish();
                    } else {
                        WaitsFor::Source
                    };
                    return Progress::Waiting;
                }
                // The connection broke or the reader closed its end: either way, the stream ends
                // here.
                Err(_) => return Progress::Done,
            }
        }
        // Poll returns at once; the source may turn out to be empty then.
        self.waits_for = WaitsFor::Destination;
        Progress::Waiting
    }

    /// Tells the reader of the end: it has received or will receive everything before that.
    fn finish(&self) -> Progress {
        // A pipe isn't a socket; its end comes with the drop.
        let _ = shutdown(self.destination.as_raw_fd(), Shutdown::Write);
        Progress::Done
    }

    fn source_is_readable(&self) -> bool {
        let mut source = [PollFd::new(self.source.as_fd(), PollFlags::POLLIN)];
        poll(&mut source, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use nix::unistd::pipe;

    use super::*;

    const SIZE: usize = 8 << 20;

    /// Returns bytes without a period that fits a buffer's size.
    fn pattern() -> Vec<u8> {
        (0..SIZE).map(|i| (i % 251) as u8).collect()
    }

    /// Polls, even if signals interrupt it again and again (stopping and continuing a machine does
    /// that too).
    fn wait(interests: &mut [PollFd<'_>], milliseconds: u16) -> i32 {
        loop {
            match poll(interests, PollTimeout::from(milliseconds)) {
                Err(Errno::EINTR) => {}
                ready => return ready.unwrap(),
            }
        }
    }

    /// Polls and advances until the relay is done. Panics if nothing happens for a while.
    fn run(relay: &mut Relay) {
        loop {
            let mut interests = relay.interests();
            assert!(
                wait(&mut interests, 5000) > 0,
                "stuck waiting for {:?}",
                relay.waits_for
            );
            let events = interests.last().and_then(PollFd::revents).unwrap();
            if relay.advance(events) == Progress::Done {
                return;
            }
        }
    }

    fn from_workload() -> (File, Relay, UnixStream) {
        let (reader, writer) = pipe().unwrap();
        let (connection, host) = UnixStream::pair().unwrap();
        let relay = Relay::new(reader, connection.into()).unwrap();
        (writer.into(), relay, host)
    }

    fn to_workload() -> (UnixStream, Relay, File) {
        let (reader, writer) = pipe().unwrap();
        let (connection, host) = UnixStream::pair().unwrap();
        let relay = Relay::new(connection.into(), writer).unwrap();
        (host, relay, reader.into())
    }

    /// Reads to the end, in pieces of different sizes, and with pauses at first.
    fn read_slowly(from: &mut impl Read) -> Vec<u8> {
        let mut all = Vec::new();
        let mut piece = vec![0; 70_001];
        loop {
            if all.len() < SIZE / 4 {
                thread::sleep(Duration::from_millis(1));
            }
            match from.read(&mut piece).unwrap() {
                0 => return all,
                n => all.extend(&piece[..n]),
            }
        }
    }

    #[test]
    fn a_slow_host_gets_every_byte_and_then_the_end() {
        let (mut workload, mut relay, mut host) = from_workload();
        let writer = thread::spawn(move || workload.write_all(&pattern()).unwrap());
        let reader = thread::spawn(move || read_slowly(&mut host));
        run(&mut relay);
        drop(relay);
        writer.join().unwrap();
        assert!(reader.join().unwrap() == pattern());
    }

    #[test]
    fn a_slow_workload_gets_every_byte_and_then_the_end() {
        let (mut host, mut relay, mut workload) = to_workload();
        let writer = thread::spawn(move || {
            host.write_all(&pattern()).unwrap();
            host.shutdown(Shutdown::Write).unwrap();
            host
        });
        let reader = thread::spawn(move || read_slowly(&mut workload));
        run(&mut relay);
        drop(relay);
        assert!(reader.join().unwrap() == pattern());
        writer.join().unwrap();
    }

    #[test]
    fn a_host_that_reads_nothing_stops_the_workload() {
        let (workload, mut relay, _host) = from_workload();
        fcntl(&workload, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut written = 0;
        // Until neither the pipe nor the connection takes any more.
        loop {
            match (&workload).write(&[0; 4096]) {
                Ok(n) => written += n,
                Err(_) if relay.waits_for == WaitsFor::Destination => break,
                Err(_) => assert_eq!(relay.advance(PollFlags::empty()), Progress::Waiting),
            }
            assert!(written < 16 << 20);
        }
        let mut interests = relay.interests();
        assert_eq!(wait(&mut interests, 0), 0);
    }

    #[test]
    fn a_host_that_hangs_up_ends_it() {
        let (_workload, mut relay, host) = from_workload();
        assert_eq!(relay.advance(PollFlags::empty()), Progress::Waiting);
        drop(host);
        run(&mut relay);
        // Then the pipe goes too, and the workload's next write fails.
        drop(relay);
        assert!((&_workload).write(b"x").is_err());
    }

    #[test]
    fn a_workload_that_closes_its_input_ends_it() {
        let (mut host, mut relay, workload) = to_workload();
        assert_eq!(relay.advance(PollFlags::empty()), Progress::Waiting);
        drop(workload);
        run(&mut relay);
        drop(relay);
        assert!(host.write(b"x").is_err());
    }

    #[test]
    fn draining_ends_where_the_source_is_empty() {
        let (mut workload, mut relay, mut host) = from_workload();
        workload.write_all(b"the last words").unwrap();
        relay.drain();
        assert_eq!(relay.advance(PollFlags::empty()), Progress::Done);
        let mut got = String::new();
        host.read_to_string(&mut got).unwrap();
        assert_eq!(got, "the last words");
        // Held open until here.
        drop(workload);
    }

    #[test]
    fn draining_waits_for_a_slow_host() {
        let (workload, mut relay, mut host) = from_workload();
        let writer = thread::spawn(move || {
            (&workload).write_all(&pattern()).unwrap();
            workload
        });
        let reader = thread::spawn(move || read_slowly(&mut host));
        while !writer.is_finished() {
            let mut interests = relay.interests();
            wait(&mut interests, 10);
            assert_eq!(relay.advance(PollFlags::empty()), Progress::Waiting);
        }
        relay.drain();
        if relay.advance(PollFlags::empty()) == Progress::Waiting {
            run(&mut relay);
        }
        drop(relay);
        assert!(reader.join().unwrap() == pattern());
        writer.join().unwrap();
    }
}
