//! The event loop: the host's requests, processes that end, and the containers' streams.
//!
//! The host is trusted, so that reading a request may wait for the rest of it. A workload
//! isn't: nothing here waits for one without a bound.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};

use nacre_agent::container::Stdio;
use nacre_agent::protocol::{self, Create, Event, Failure, Hello, Request, Streams, VERSION};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::utsname::uname;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::log;
use super::machine::{Guest, Workload};
use super::relay::{Progress, Relay};

/// Why there is nothing more to do for the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It said so.
    PowerOff,
    /// It hung up.
    HostGone,
}

/// What ends the guest before the host does.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("can't read a request of the host")]
    Receive(#[source] io::Error),
    #[error("can't send to the host")]
    Send(#[source] io::Error),
    #[error("can't poll")]
    Poll(#[source] io::Error),
}

/// Serves the host at the other end of `control` until it has no more use for the guest.
/// `children` becomes readable, without blocking, when a child process has ended.
pub(super) fn serve<G: Guest>(
    guest: G,
    control: OwnedFd,
    children: OwnedFd,
) -> Result<Ended, ServeError> {
    let mut server = Server {
        guest,
        control: control.into(),
        children: children.into(),
        containers: Vec::new(),
    };
    let hello = Hello {
        version: VERSION,
        kernel: uname().map_or_else(
            |_| String::new(),
            |name| name.release().to_string_lossy().into_owned(),
        ),
    };
    server.send(&hello)?;
    loop {
        if let Some(ended) = server.turn()? {
            return Ok(ended);
        }
    }
}

struct Server<G: Guest> {
    guest: G,
    control: File,
    children: File,
    containers: Vec<Entry<G::Workload>>,
}

/// A container whose end the host hasn't been told.
struct Entry<W> {
    id: String,
    state: State<W>,
    /// Those that haven't ended.
    streams: Vec<Stream>,
}

enum State<W> {
    Alive(W),
    Gone { status: u8, oom_killed: bool },
}

struct Stream {
    relay: Relay,
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToWorkload,
    FromWorkload,
}

/// What poll found.
struct Ready {
    control: bool,
    children: bool,
    /// For each stream of each container, in order, what its destination reports; `None` if
    /// there is nothing to do for it.
    streams: Vec<Option<PollFlags>>,
}

impl<G: Guest> Server<G> {
    /// Waits until something happens, and deals with it.
    fn turn(&mut self) -> Result<Option<Ended>, ServeError> {
        let ready = self.wait()?;
        let mut events = ready.streams.into_iter();
        for entry in &mut self.containers {
            entry.streams.retain_mut(|stream| {
                let events = events.next().flatten();
                events.is_none_or(|events| stream.relay.advance(events) == Progress::Waiting)
            });
        }
        if ready.children {
            self.reap();
        }
        self.report_ends()?;
        if ready.control {
            return self.serve_request();
        }
        Ok(None)
    }

    fn wait(&self) -> Result<Ready, ServeError> {
        let mut fds = vec![
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
        ];
        let mut counts = Vec::new();
        for stream in self.containers.iter().flat_map(|entry| &entry.streams) {
            let interests = stream.relay.interests();
            counts.push(interests.len());
            fds.extend(interests);
        }
        while let Err(error) = poll(&mut fds, PollTimeout::NONE) {
            if error != Errno::EINTR {
                return Err(ServeError::Poll(error.into()));
            }
        }
        let mut events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let mut next_is_ready = || events.next().is_some_and(|events| !events.is_empty());
        let (control, children) = (next_is_ready(), next_is_ready());
        let streams = counts
            .into_iter()
            .map(|count| {
                let events: Vec<PollFlags> = events.by_ref().take(count).collect();
                let ready = events.iter().any(|events| !events.is_empty());
                events.last().copied().filter(|_| ready)
            })
            .collect();
        Ok(Ready {
            control,
            children,
            streams,
        })
    }

    /// Collects every child process that has ended: containers' first processes, and orphans
    /// that fell to PID 1.
    fn reap(&mut self) {
        let mut notices = [0; 1024];
        let _ = self.children.read(&mut notices);
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code as u8),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as u8),
                Err(Errno::EINTR) | Ok(WaitStatus::Stopped(..) | WaitStatus::Continued(_)) => {
                    continue;
                }
                _ => return,
            };
            if let Some(entry) = self.containers.iter_mut().find(|entry| entry.is(pid)) {
                entry.end(status);
            }
        }
    }

    /// Tells the host of the containers of which everything has been told.
    fn report_ends(&mut self) -> Result<(), ServeError> {
        let ended: Vec<Event> = self
            .containers
            .extract_if(.., |entry| {
                matches!(entry.state, State::Gone { .. }) && entry.streams.is_empty()
            })
            .filter_map(|entry| match entry.state {
                State::Gone { status, oom_killed } => Some(Event::Exited {
                    id: entry.id,
                    status,
                    oom_killed,
                }),
                State::Alive(_) => None,
            })
            .collect();
        ended.iter().try_for_each(|event| self.send(event))
    }

    fn serve_request(&mut self) -> Result<Option<Ended>, ServeError> {
        let request = match protocol::receive(&mut self.control) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(Some(Ended::HostGone)),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(Some(Ended::HostGone));
            }
            Err(error) => return Err(ServeError::Receive(error)),
        };
        let result = match request {
            Request::Create(create) => self.create(*create),
            Request::Start { id } => self.alive(&id).and_then(Workload::start),
            Request::Signal { id, signal } => {
                self.alive(&id).and_then(|workload| workload.signal(signal))
            }
            Request::PowerOff => {
                self.guest.sync();
                return Ok(Some(Ended::PowerOff));
            }
        };
        self.send(&Event::Reply { result })?;
        Ok(None)
    }

    fn create(&mut self, create: Create) -> Result<(), Failure> {
        let Create { id, spec, streams } = create;
        if self.containers.iter().any(|entry| entry.id == id) {
            return Err(refused(format!("the guest has a container {id:?} already")));
        }
        let (stdio, streams) = self
            .connect(streams)
            .map_err(|error| refused(format!("can't connect the standard streams: {error}")))?;
        let workload = self.guest.create(&id, &spec, stdio)?;
        self.containers.push(Entry {
            id,
            state: State::Alive(workload),
            streams,
        });
        Ok(())
    }

    /// The workload gets pipes and not the connections: a socket can't be opened by way of
    /// `/dev/stdout`.
    fn connect(&self, ports: Streams) -> io::Result<(Stdio, Vec<Stream>)> {
        let mut streams = Vec::new();
        let mut end = |port: Option<u32>, direction| -> io::Result<OwnedFd> {
            let Some(port) = port else {
                let null = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/null")?;
                return Ok(null.into());
            };
            let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
            let connection = self.guest.connect(port)?;
            let (theirs, source, destination) = match direction {
                Direction::ToWorkload => (reader, connection, writer),
                Direction::FromWorkload => (writer, reader, connection),
            };
            let relay = Relay::new(source, destination)?;
            streams.push(Stream { relay, direction });
            Ok(theirs)
        };
        let stdin = end(ports.stdin, Direction::ToWorkload)?;
        let stdout = end(ports.stdout, Direction::FromWorkload)?;
        let stderr = match ports.stderr {
            // One file on the host, and so one pipe here: what is written to the two stays in
            // its order.
            port @ Some(_) if port == ports.stdout => stdout.try_clone()?,
            port => end(port, Direction::FromWorkload)?,
        };
        let stdio = Stdio {
            stdin,
            stdout,
            stderr,
        };
        Ok((stdio, streams))
    }

    fn alive(&mut self, id: &str) -> Result<&mut G::Workload, Failure> {
        match self.containers.iter_mut().find(|entry| entry.id == id) {
            Some(Entry {
                state: State::Alive(workload),
                ..
            }) => Ok(workload),
            Some(_) => Err(refused(format!("the container {id:?} has ended"))),
            None => Err(refused(format!("the guest has no container {id:?}"))),
        }
    }

    fn send<T: serde::Serialize>(&mut self, message: &T) -> Result<(), ServeError> {
        protocol::send(&mut self.control, message).map_err(ServeError::Send)
    }
}

impl<W: Workload> Entry<W> {
    /// Whether `pid` is its first process.
    fn is(&self, pid: Pid) -> bool {
        matches!(&self.state, State::Alive(workload) if workload.pid() == pid)
    }

    /// Its first process has ended: so must all others, and then the pipes hold all there
    /// will ever be of its output.
    fn end(&mut self, status: u8) {
        let State::Alive(workload) = &self.state else {
            return;
        };
        let oom_killed = workload.oom_killed();
        let gone = State::Gone { status, oom_killed };
        if let State::Alive(workload) = std::mem::replace(&mut self.state, gone)
            && let Err(error) = workload.destroy()
        {
            log::error(&error.message);
        }
        self.streams
            .retain(|stream| stream.direction == Direction::FromWorkload);
        self.streams.retain_mut(|stream| {
            stream.relay.drain();
            stream.relay.advance(PollFlags::empty()) == Progress::Waiting
        });
    }
}

fn refused(message: String) -> Failure {
    Failure { message, status: 1 }
}

#[cfg(test)]
mod tests;
