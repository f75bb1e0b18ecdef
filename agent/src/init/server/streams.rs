//! Carries a process's standard streams between the host's connections and the process's pipes or
//! terminal.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

use nacre_agent::container::Stdio;
use nacre_agent::protocol::{Streams, WindowSize};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::pipe2;

use super::super::relay::{Progress, Relay};
use super::super::terminal::Terminal;

/// The streams of a process that haven't ended.
#[derive(Debug, Default)]
pub(super) struct StreamRelays(Vec<Stream>);

#[derive(Debug)]
enum Stream {
    ToWorkload(Relay),
    FromWorkload(Relay),
    Terminal(Terminal),
}

/// What a process gets, and the host's end of it.
pub(super) struct Connected {
    pub(super) stdio: Stdio,
    pub(super) carried: StreamRelays,
    /// The host's connection for its terminal; the engine has to make the other end.
    pub(super) terminal: Option<OwnedFd>,
}

impl Connected {
    /// Connects to the ports. The workload gets pipes rather than the connections, since a socket
    /// can't be opened through `/dev/stdout`.
    pub(super) fn new(
        ports: Streams,
        connect: impl Fn(u32) -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        let mut streams = Vec::new();
        let mut end = |port: Option<u32>, to_workload: bool| -> io::Result<OwnedFd> {
            let Some(port) = port else {
                return null();
            };
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            let connection = connect(port)?;
            if to_workload {
                streams.push(Stream::ToWorkload(Relay::new(connection, writer)?));
                Ok(reader)
            } else {
                streams.push(Stream::FromWorkload(Relay::new(reader, connection)?));
                Ok(writer)
            }
        };
        let stdin = end(ports.stdin, true)?;
        let stdout = end(ports.stdout, false)?;
        let stderr = match ports.stderr {
            // One file on the host, and so one pipe here: what is written to both stays in order.
            port @ Some(_) if port == ports.stdout => stdout.try_clone()?,
            port => end(port, false)?,
        };
        Ok(Self {
            stdio: Stdio {
                stdin,
                stdout,
                stderr,
            },
            carried: StreamRelays(streams),
            terminal: ports.terminal.map(connect).transpose()?,
        })
    }
}

impl StreamRelays {
    /// Also carries what is typed at and shown by the terminal with this master.
    pub(super) fn add_terminal(&mut self, master: OwnedFd, connection: OwnedFd) -> io::Result<()> {
        let terminal = Terminal::new(master, connection)?;
        self.0.push(Stream::Terminal(terminal));
        Ok(())
    }

    /// Returns whether there is nothing more to carry.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns what to poll for, stream by stream.
    pub(super) fn interests(&self) -> impl Iterator<Item = Vec<PollFd<'_>>> {
        self.0.iter().map(|stream| match stream {
            Stream::ToWorkload(relay) | Stream::FromWorkload(relay) => relay.interests(),
            Stream::Terminal(terminal) => terminal.interests(),
        })
    }

    /// Continues after a poll. For each stream, `found` says what its last descriptor reports, and
    /// `None` if there is nothing to do for it.
    pub(super) fn advance(&mut self, mut found: impl Iterator<Item = Option<PollFlags>>) {
        self.0.retain_mut(|stream| {
            let found = found.next().flatten();
            found.is_none_or(|events| stream.advance(events) == Progress::Waiting)
        });
    }

    /// Takes note that the process has ended: what it has written is all there will ever be.
    pub(super) fn drain(&mut self) {
        self.0.retain_mut(|stream| {
            match stream {
                Stream::ToWorkload(_) => return false,
                Stream::FromWorkload(relay) => relay.drain(),
                Stream::Terminal(terminal) => terminal.drain(),
            }
            stream.advance(PollFlags::empty()) == Progress::Waiting
        });
    }

    /// Changes the terminal's size; `None` if there is no terminal.
    pub(super) fn resize(&self, size: WindowSize) -> Option<io::Result<()>> {
        self.0.iter().find_map(|stream| match stream {
            Stream::Terminal(terminal) => Some(terminal.resize(size)),
            _ => None,
        })
    }
}

impl Stream {
    fn advance(&mut self, events: PollFlags) -> Progress {
        match self {
            Stream::ToWorkload(relay) | Stream::FromWorkload(relay) => relay.advance(events),
            Stream::Terminal(terminal) => terminal.advance(events),
        }
    }
}

fn null() -> io::Result<OwnedFd> {
    let null: io::Result<File> = OpenOptions::new().read(true).write(true).open("/dev/null");
    null.map(OwnedFd::from)
}
