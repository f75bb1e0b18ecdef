//! The conversation with the agent in a running guest, from its hello to its end. `service/` has
//! the part between the container's creation and its end.
//!
//! The session waits for everything in one place, so that it misses none of it: messages from the
//! guest, the machine's end, signals, and the caller's end. The guest isn't trusted: what it owes
//! has a deadline, and anything it sends unasked ends the conversation.

use std::{
    convert::Infallible,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nacre_agent::{
    network::Network,
    protocol::{Answer, Create, Event, Hello, Request, VERSION},
    stats::Used,
};
use nacre_vmm::devices::virtio::fs::FileServer;
use nix::poll::PollFlags;
use serde::de::DeserializeOwned;

use crate::isolation::{
    signals::{Received, Signals, ends_a_start},
    vm::{
        control::{Control, ControlError},
        error::SessionError,
        stand_in::Line,
    },
    wait::{Events, Interest, is_hung_up, wait},
};

use super::effort::Effort;

/// How many messages of the guest are taken in a row before anything else gets a turn.
const MAX_LISTENED: u8 = 16;

/// How long to wait for the machine's end after its agent has hung up: that end says more.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to check how much time of its own a guest has had.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How long a kernel's release may be, in bytes (`struct utsname`).
const MAX_RELEASE: usize = 64;

/// The running machine, as far as the conversation needs it.
pub(super) trait Machine {
    /// Readable once the machine has ended.
    fn ended(&self) -> BorrowedFd<'_>;

    /// Stops its vCPUs.
    fn pause(&self) -> Result<(), nacre_vmm::Error>;

    /// Lets its vCPUs go on.
    fn resume(&self) -> Result<(), nacre_vmm::Error>;
}

impl Machine for nacre_vmm::monitor::Monitor {
    fn ended(&self) -> BorrowedFd<'_> {
        self.exit_event()
    }

    fn pause(&self) -> Result<(), nacre_vmm::Error> {
        Self::pause(self)
    }

    fn resume(&self) -> Result<(), nacre_vmm::Error> {
        Self::resume(self)
    }
}

/// How a container's workload ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exited {
    pub(super) status: u8,
    /// Whether the kernel killed one of its processes for lack of memory, at any time.
    pub(super) oom_killed: bool,
    /// What its processes have used in the guest, if that told.
    pub(super) used: Option<Used>,
}

impl Exited {
    /// The workload was killed, and the guest had no part in it.
    pub(super) fn killed(oom_killed: bool) -> Self {
        Self {
            status: 128 + libc::SIGKILL as u8,
            oom_killed,
            used: None,
        }
    }
}

/// What a conversation begins with.
pub(super) struct SessionParts<'a, M> {
    pub(super) machine: &'a M,
    pub(super) control: Control,
    pub(super) signals: &'a Signals,
    /// The process that waits for the container; it writes nothing more.
    pub(super) caller: Option<&'a UnixStream>,
    pub(super) id: String,
    pub(super) effort: Effort,
    /// Whether this process's terminal stands for the workload's. The guest's terminal then signals
    /// the workload whatever the host's signals this process.
    pub(super) has_pair: bool,
    /// The process that serves files to the guest, whose end is the machine's.
    pub(super) file_server: Option<&'a FileServer>,
}

/// A conversation about one container.
pub(super) struct Session<'a, M> {
    pub(super) machine: &'a M,
    control: Control,
    signals: &'a Signals,
    /// `None` once nobody waits.
    caller: Option<&'a UnixStream>,
    /// The line to the stand-in: signals sent to the stand-in are for the workload, and its end is
    /// the container's.
    line: Option<&'a Line>,
    pub(super) id: String,
    /// Signals that arrived before there was a container.
    pub(super) pending: Vec<i32>,
    /// Whether signals are read. Otherwise they wait in the kernel, which keeps one of each.
    pub(super) hears_signals: bool,
    /// How many messages of the guest were taken in a row.
    listened: u8,
    /// What time the host gave the machine.
    pub(super) effort: Effort,
    has_pair: bool,
    file_server: Option<&'a FileServer>,
}

/// What woke the session.
pub(super) enum Wake<T> {
    Message,
    Signal(i32),
    MachineEnded,
    /// What happened to the other descriptors that were waited for.
    Others(Events<T>),
    Deadline,
}

/// What the session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited<T = Infallible> {
    Control,
    Signals,
    Machine,
    Caller,
    Line,
    FileServer,
    Other(T),
}

impl<'a, M: Machine> Session<'a, M> {
    pub(super) fn new(parts: SessionParts<'a, M>) -> Self {
        Self {
            machine: parts.machine,
            control: parts.control,
            signals: parts.signals,
            caller: parts.caller,
            line: None,
            id: parts.id,
            pending: Vec::new(),
            hears_signals: true,
            listened: 0,
            effort: parts.effort,
            has_pair: parts.has_pair,
            file_server: parts.file_server,
        }
    }

    /// Listens to the stand-in, which is confined, from here on.
    pub(super) fn hear_stand_in(&mut self, line: &'a Line) {
        self.line = Some(line);
    }

    /// Leaves signals in the kernel until the container is started.
    pub(super) fn keep_signals(&mut self) {
        self.hears_signals = false;
    }

    /// Forgets the caller: nobody waits for the container any more.
    pub(super) fn forget_caller(&mut self) {
        self.caller = None;
    }

    /// Waits for the agent's hello.
    pub(super) fn hello(&mut self, timeout: Duration) -> Result<Hello, SessionError> {
        let hello: Hello = self
            .message(timeout, "its hello")?
            .ok_or(SessionError::NoHello(timeout))?;
        if hello.version != VERSION {
            return Err(SessionError::Version {
                theirs: hello.version,
            });
        }
        // The release is written to the record, and shown.
        if hello.kernel.len() > MAX_RELEASE || hello.kernel.contains(char::is_control) {
            return Err(SessionError::Kernel);
        }
        Ok(hello)
    }

    /// Has the agent set up the container's network as it is on the host.
    pub(super) fn set_network(
        &mut self,
        network: Network,
        timeout: Duration,
    ) -> Result<(), SessionError> {
        let request = network_request(&self.id, network);
        match self.request(&request, "make the container's network", timeout)? {
            Answer::Done => Ok(()),
            _ => Err(SessionError::Unasked),
        }
    }

    /// Has the agent create the container.
    pub(super) fn create(&mut self, create: Create, timeout: Duration) -> Result<(), SessionError> {
        match self.request(
            &Request::Create(Box::new(create)),
            "create the container",
            timeout,
        )? {
            Answer::Done => Ok(()),
            _ => Err(SessionError::Unasked),
        }
    }

    /// Queues a request; the caller has to wait for its reply.
    pub(super) fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        Ok(self.control.send(request)?)
    }

    /// Sends as much as the guest takes without blocking. Returns false if some of it is left.
    pub(super) fn flush(&mut self) -> Result<bool, SessionError> {
        match self.control.flush() {
            Err(ControlError::Closed) => Err(self.hung_up()),
            flushed => {
                flushed?;
                Ok(!self.control.has_outgoing())
            }
        }
    }

    /// Waits until the machine has ended, but no longer than `deadline`.
    fn await_end(&mut self, deadline: Instant) -> Result<(), SessionError> {
        loop {
            // What the guest says is of no interest here, nor is its silence.
            let _ = self.control.flush();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let machine = self.machine.ended();
            let mut interests = vec![Interest::readable(Awaited::<Infallible>::Machine, machine)];
            let caller = self.caller.map(UnixStream::as_fd);
            interests.extend(caller.map(|fd| Interest::readable(Awaited::Caller, fd)));
            let line = self.line.map(Line::as_fd);
            let nothing = PollFlags::empty();
            interests.extend(line.map(|fd| Interest::new(Awaited::Line, fd, nothing)));
            if self.control.has_outgoing() {
                let (fd, flags) = (self.control.as_fd(), PollFlags::POLLOUT);
                interests.push(Interest::new(Awaited::Control, fd, flags));
            }
            let events = wait(interests, Some(left)).map_err(|e| SessionError::Poll(e.into()))?;
            if events.has(Awaited::Machine) {
                return Ok(());
            }
            if events.has(Awaited::Caller) {
                return Err(SessionError::CallerGone);
            }
            if self.line.is_some_and(|line| is_hung_up(line.as_fd())) {
                return Err(SessionError::StandInKilled);
            }
        }
    }

    fn request(
        &mut self,
        request: &Request,
        what: &'static str,
        timeout: Duration,
    ) -> Result<Answer, SessionError> {
        self.control.send(request)?;
        match self.message(timeout, "its answer")? {
            Some(Event::Reply { result }) => result.map_err(SessionError::Refused),
            Some(_) => Err(SessionError::Unasked),
            None => Err(SessionError::NoReply { what, timeout }),
        }
    }

    /// Waits for a message during a creation; `None` if none has come within so much of the
    /// machine's own time ([`Effort`]). Signals that would end a process end the creation; others
    /// are kept for the workload.
    fn message<T: DeserializeOwned>(
        &mut self,
        mut left: Duration,
        what: &'static str,
    ) -> Result<Option<T>, SessionError> {
        let step = |left: Duration| left.min(LOOK_INTERVAL);
        self.effort.had(Duration::ZERO);
        let mut look = Instant::now() + step(left);
        loop {
            match self.received()? {
                None => {}
                message => return Ok(message),
            }
            match self.wake::<Infallible>(Some(look), &[])? {
                Wake::Message | Wake::Others(_) => {}
                Wake::Signal(signal) => match ends_a_start(signal) {
                    Some(signal) => return Err(SessionError::Interrupted(signal)),
                    None if self.pending.contains(&signal) => {}
                    None => self.pending.push(signal),
                },
                Wake::MachineEnded => return Err(SessionError::MachineEnded(what)),
                // Time in which this process was late isn't time that the guest had.
                Wake::Deadline => {
                    left = left.saturating_sub(self.effort.had(step(left)));
                    if left.is_zero() {
                        return Ok(None);
                    }
                    look = Instant::now() + step(left);
                }
            }
        }
    }

    /// Returns the next message, if it has arrived.
    pub(super) fn received<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SessionError> {
        match self.control.receive() {
            Err(ControlError::Closed) => Err(self.hung_up()),
            message => Ok(message?),
        }
    }

    /// Returns the error for an agent that has hung up. If that is because its machine has ended,
    /// the machine's error says more.
    fn hung_up(&mut self) -> SessionError {
        let deadline = Instant::now() + END_TIMEOUT;
        match self.await_end(deadline) {
            Err(error) => error,
            Ok(()) if Instant::now() < deadline => {
                SessionError::MachineEnded("its control connection")
            }
            Ok(()) => ControlError::Closed.into(),
        }
    }

    /// Waits for whatever comes first, and after the deadline only checks. Messages of the guest
    /// take precedence, but not for ever: a guest that never stops talking can't hide anything
    /// else.
    pub(super) fn wake<T: Copy + PartialEq>(
        &mut self,
        deadline: Option<Instant>,
        others: &[Interest<'_, T>],
    ) -> Result<Wake<T>, SessionError> {
        loop {
            let has_sent_all = self.flush()?;
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let mut interests = self.interests(has_sent_all);
            interests.extend(others.iter().map(|other| other.map(Awaited::Other)));
            let events = wait(interests, left).map_err(|e| SessionError::Poll(e.into()))?;
            if events.is_empty() {
                match left {
                    Some(left) if left.is_zero() => return Ok(Wake::Deadline),
                    _ => continue,
                }
            }
            if events.has(Awaited::Caller) {
                return Err(SessionError::CallerGone);
            }
            let of_line = events.flags(Awaited::Line);
            if of_line.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Err(SessionError::StandInKilled);
            }
            // Before the machine's end, which may have followed from it.
            if events.has(Awaited::FileServer)
                && let Some(server) = self.file_server
            {
                return Err(server.failure().into());
            }
            let of_control = events.flags(Awaited::Control);
            let has_message = !of_control.difference(PollFlags::POLLOUT).is_empty();
            if has_message && self.listened < MAX_LISTENED {
                self.listened += 1;
                return Ok(Wake::Message);
            }
            self.listened = 0;
            let of_others = events.filter_map(|awaited| match awaited {
                Awaited::Other(token) => Some(*token),
                _ => None,
            });
            if !of_others.is_empty() {
                return Ok(Wake::Others(of_others));
            }
            if events.has(Awaited::Signals)
                && let Some(signal) = self.signals.next().map_err(SessionError::Poll)?
                && self.is_for_the_workload(signal)
            {
                return Ok(Wake::Signal(signal.number));
            }
            if !of_line.is_empty()
                && let Some(signal) = self.line.and_then(Line::signal)
            {
                return Ok(Wake::Signal(signal));
            }
            // What a machine said before its end is still heard.
            if has_message {
                return Ok(Wake::Message);
            }
            if events.has(Awaited::Machine) {
                return Ok(Wake::MachineEnded);
            }
        }
    }

    /// Returns what the session itself waits for.
    fn interests<T: Copy>(&self, has_sent_all: bool) -> Vec<Interest<'_, Awaited<T>>> {
        let mut of_control = PollFlags::POLLIN;
        of_control.set(PollFlags::POLLOUT, !has_sent_all);
        // A guest that reads nothing is sent no more signals.
        let mut of_signals = PollFlags::empty();
        of_signals.set(PollFlags::POLLIN, self.hears_signals && has_sent_all);
        let mut interests = vec![
            Interest::new(Awaited::Control, self.control.as_fd(), of_control),
            Interest::new(Awaited::Signals, self.signals.as_fd(), of_signals),
            Interest::readable(Awaited::Machine, self.machine.ended()),
        ];
        let caller = self.caller.map(UnixStream::as_fd);
        interests.extend(caller.map(|fd| Interest::readable(Awaited::Caller, fd)));
        let line = self.line.map(Line::as_fd);
        interests.extend(line.map(|fd| Interest::new(Awaited::Line, fd, of_signals)));
        let server = self.file_server.map(FileServer::as_fd);
        interests.extend(server.map(|fd| Interest::readable(Awaited::FileServer, fd)));
        interests
    }

    /// Whether a signal that this process got is for the workload: SIGCHLD comes from its child
    /// QEMU.
    fn is_for_the_workload(&self, signal: Received) -> bool {
        match signal.number {
            libc::SIGCHLD => false,
            libc::SIGWINCH => true,
            _ => !(self.has_pair && signal.by_kernel),
        }
    }
}

/// Returns the request that sets up a container's network as it is on the host.
pub(super) fn network_request(id: &str, network: Network) -> Request {
    Request::Network {
        id: id.to_owned(),
        network: Box::new(network),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
pub(super) mod tests;
