//! The conversation with the agent in a running guest, from its hello to its power-off. What
//! lies between the container's creation and its end is `service/`.
//!
//! Everything is waited for in one place, so that none of it can be missed: messages of the
//! guest, its end, signals, and the caller's end. The guest isn't trusted: what it owes is
//! waited for until a deadline, and what it sends unasked ends it.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use nacre_agent::network::Network;
use nacre_agent::protocol::{Answer, Create, Event, Failure, Hello, Request, VERSION};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use serde::de::DeserializeOwned;

use crate::isolation::{
    signals::{Received, Signals},
    vm::{
        control::{Control, ControlError, poll_timeout},
        stand_in::Line,
    },
};

/// How long a guest that was told to power off may take to, writing back what it has cached.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(10);

/// How many messages of the guest go before what else there is.
const MAX_LISTENED: u8 = 16;

/// How long the machine's end is waited for after its agent has hung up: it says more.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a kernel's release may be, in bytes (`struct utsname`).
const MAX_RELEASE: usize = 64;

/// Why the conversation ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the guest didn't say hello within {} s", .0.as_secs_f32())]
    NoHello(Duration),
    #[error("the guest's agent speaks version {theirs} of the protocol, nacre version {VERSION}")]
    Version { theirs: u32 },
    #[error("the guest's kernel calls its release what no kernel does")]
    Kernel,
    #[error("the guest didn't {what} within {} s", timeout.as_secs_f32())]
    NoReply {
        what: &'static str,
        timeout: Duration,
    },
    #[error("the guest ended while nacre waited for {0}")]
    MachineEnded(&'static str),
    #[error(
        "the guest is frozen: it has said nothing for {} s, though it was asked (vm.watchdog in \
         the configuration file)", .0.as_secs_f32()
    )]
    Frozen(Duration),
    #[error("the guest sent what nobody asked for")]
    Unasked,
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What the engine in the guest says, in words made for whoever runs nacre.
    #[error("unable to start container process: {}", .0.message)]
    Refused(Failure),
    #[error("ended by {0} before the container was started")]
    Interrupted(Signal),
    #[error("the nacre that waited for the container is gone")]
    CallerGone,
    #[error("the process that stands for the container was killed")]
    StandInKilled,
    #[error("can't wait for the guest")]
    Poll(#[source] io::Error),
}

impl SessionError {
    /// Whether the guest is to blame, so that its console may say why.
    pub(super) fn is_the_guests(&self) -> bool {
        match self {
            Self::NoHello(_)
            | Self::Version { .. }
            | Self::Kernel
            | Self::NoReply { .. }
            | Self::MachineEnded(_)
            | Self::Frozen(_)
            | Self::Unasked
            | Self::Control(_) => true,
            Self::Refused(_)
            | Self::Interrupted(_)
            | Self::CallerGone
            | Self::StandInKilled
            | Self::Poll(_) => false,
        }
    }
}

/// The running machine, as far as the conversation goes.
pub(super) trait Machine {
    /// Readable once the machine has ended.
    fn ended(&self) -> BorrowedFd<'_>;

    /// Stops its vCPUs.
    fn pause(&self) -> Result<(), nacre_vmm::Error>;

    /// Lets them go on.
    fn resume(&self) -> Result<(), nacre_vmm::Error>;
}

impl Machine for nacre_vmm::RunningVm {
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
    pub(super) oom_killed: bool,
}

impl Exited {
    /// It was killed, and the guest had no part in it.
    pub(super) fn killed() -> Self {
        Self {
            status: 128 + libc::SIGKILL as u8,
            oom_killed: false,
        }
    }
}

/// A conversation about one container.
pub(super) struct Session<'a, M> {
    pub(super) machine: &'a M,
    control: Control,
    signals: &'a Signals,
    /// The process that waits for the container; it never writes now. `None` once nobody waits.
    caller: Option<&'a UnixStream>,
    /// The line to the process that stands for the container: signals to that are the workload's,
    /// and its end is the container's.
    pub(super) line: Option<&'a Line>,
    pub(super) id: String,
    /// Signals that came before there was a container.
    pub(super) pending: Vec<i32>,
    /// Whether signals are taken. They wait in the kernel otherwise, which keeps one of each.
    pub(super) hears_signals: bool,
    /// How often in a row the guest was listened to.
    listened: u8,
    /// Whether this process's terminal stands for the workload's, which the guest's tells of
    /// what the host's tells this process.
    pub(super) has_pair: bool,
}

/// What woke the session.
pub(super) enum Wake {
    Message,
    Signal(i32),
    MachineEnded,
    /// What happened to the others that were waited for, in their order.
    Others(Vec<PollFlags>),
    Deadline,
}

/// What else is waited for, and with which flags.
pub(super) type Others<'b> = [(BorrowedFd<'b>, PollFlags)];

impl<'a, M: Machine> Session<'a, M> {
    pub(super) fn new(
        machine: &'a M,
        control: Control,
        signals: &'a Signals,
        caller: Option<&'a UnixStream>,
        id: &str,
    ) -> Self {
        Self {
            machine,
            control,
            signals,
            caller,
            line: None,
            id: id.into(),
            pending: Vec::new(),
            hears_signals: true,
            listened: 0,
            has_pair: false,
        }
    }

    /// Nobody waits for the container from now on.
    pub(super) fn forget_caller(&mut self) {
        self.caller = None;
    }

    /// Waits for the agent's hello.
    pub(super) fn hello(&mut self, timeout: Duration) -> Result<Hello, SessionError> {
        let deadline = Instant::now() + timeout;
        let hello: Hello = self
            .message(deadline, "its hello")?
            .ok_or(SessionError::NoHello(timeout))?;
        if hello.version != VERSION {
            return Err(SessionError::Version {
                theirs: hello.version,
            });
        }
        // It is written down, and shown.
        if hello.kernel.len() > MAX_RELEASE || hello.kernel.contains(char::is_control) {
            return Err(SessionError::Kernel);
        }
        Ok(hello)
    }

    /// Has the container's network made what it is on the host.
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

    /// Has the container made.
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

    /// Queues a request, whose reply is the caller's to await.
    pub(super) fn send(&mut self, request: &Request) -> Result<(), SessionError> {
        Ok(self.control.send(request)?)
    }

    /// Sends what the guest takes now. False if there is more that it doesn't take.
    pub(super) fn flush(&mut self) -> Result<bool, SessionError> {
        match self.control.flush() {
            Err(ControlError::Closed) => Err(self.hung_up()),
            flushed => {
                flushed?;
                Ok(!self.control.has_outgoing())
            }
        }
    }

    /// Has the guest power itself off, and waits until it has. Nothing is lost if it doesn't
    /// answer: the workload is gone, and the machine is stopped next.
    pub(super) fn power_off(&mut self) -> Result<(), SessionError> {
        self.control.send(&Request::PowerOff)?;
        let deadline = Instant::now() + POWER_OFF_TIMEOUT;
        self.await_end(deadline)
    }

    /// Waits until the machine has ended, not for longer than till `deadline`.
    fn await_end(&mut self, deadline: Instant) -> Result<(), SessionError> {
        loop {
            // What the guest says now is of no interest, and its silence none either.
            let _ = self.control.flush();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let mut fds = vec![PollFd::new(self.machine.ended(), PollFlags::POLLIN)];
            fds.extend(
                self.caller
                    .map(|caller| PollFd::new(caller.as_fd(), PollFlags::POLLIN)),
            );
            let line = self.line.map(Line::as_fd);
            // Its end is always told.
            fds.extend(line.map(|line| PollFd::new(line, PollFlags::empty())));
            if self.control.has_outgoing() {
                fds.push(PollFd::new(self.control.as_fd(), PollFlags::POLLOUT));
            }
            match poll(&mut fds, poll_timeout(left)) {
                Err(Errno::EINTR) | Ok(0) => {}
                Err(e) => return Err(SessionError::Poll(e.into())),
                Ok(_) if fds[0].any().unwrap_or(true) => return Ok(()),
                Ok(_) if self.caller.is_some() && fds[1].any().unwrap_or(true) => {
                    return Err(SessionError::CallerGone);
                }
                Ok(_) => {}
            }
            if self.line.is_some_and(is_hung_up) {
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
        let deadline = Instant::now() + timeout;
        match self.message(deadline, "its answer")? {
            Some(Event::Reply { result }) => result.map_err(SessionError::Refused),
            Some(_) => Err(SessionError::Unasked),
            None => Err(SessionError::NoReply { what, timeout }),
        }
    }

    /// Waits for a message of a creation; `None` at the deadline. Signals that would end a
    /// process end the creation, others are kept for the workload.
    fn message<T: DeserializeOwned>(
        &mut self,
        deadline: Instant,
        what: &'static str,
    ) -> Result<Option<T>, SessionError> {
        loop {
            match self.received()? {
                None => {}
                message => return Ok(message),
            }
            match self.wake(Some(deadline), &[])? {
                Wake::Message | Wake::Others(_) => {}
                Wake::Signal(signal) => match ends_a_start(signal) {
                    Some(signal) => return Err(SessionError::Interrupted(signal)),
                    None if self.pending.contains(&signal) => {}
                    None => self.pending.push(signal),
                },
                Wake::MachineEnded => return Err(SessionError::MachineEnded(what)),
                Wake::Deadline => return Ok(None),
            }
        }
    }

    /// The next message, if it has arrived.
    pub(super) fn received<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SessionError> {
        match self.control.receive() {
            Err(ControlError::Closed) => Err(self.hung_up()),
            message => Ok(message?),
        }
    }

    /// The agent has hung up. If that is because its machine has ended, the machine's error
    /// says more.
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

    /// Waits for whatever comes first; at the deadline for no longer than it takes to look. Of what
    /// comes at once it is the guest's messages, but not for ever: one that never stops talking
    /// keeps nothing else from being seen.
    pub(super) fn wake(
        &mut self,
        deadline: Option<Instant>,
        others: &Others<'_>,
    ) -> Result<Wake, SessionError> {
        loop {
            let has_sent_all = self.flush()?;
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let timeout = match left {
                Some(left) if left.is_zero() => PollTimeout::ZERO,
                Some(left) => poll_timeout(left),
                None => PollTimeout::NONE,
            };
            let mut of_control = PollFlags::POLLIN;
            of_control.set(PollFlags::POLLOUT, !has_sent_all);
            // A guest that reads nothing gets no more signals.
            let of_signals = match self.hears_signals && has_sent_all {
                true => PollFlags::POLLIN,
                false => PollFlags::empty(),
            };
            let mut fds = vec![
                PollFd::new(self.control.as_fd(), of_control),
                PollFd::new(self.signals.as_fd(), of_signals),
                PollFd::new(self.machine.ended(), PollFlags::POLLIN),
            ];
            let caller = self
                .caller
                .map(|caller| (caller.as_fd(), PollFlags::POLLIN));
            let line = self.line.map(|line| (line.as_fd(), of_signals));
            for (fd, flags) in caller.iter().chain(&line).chain(others) {
                fds.push(PollFd::new(*fd, *flags));
            }
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(Wake::Deadline),
                Err(Errno::EINTR) | Ok(0) => continue,
                Err(e) => return Err(SessionError::Poll(e.into())),
                Ok(_) => {}
            }
            let mut found: Vec<PollFlags> = fds
                .iter()
                .map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR))
                .collect();
            let of_others = found.split_off(found.len() - others.len());
            let of_line = self.line.and_then(|_| found.pop());
            let of_line = of_line.unwrap_or(PollFlags::empty());
            if found.get(3).is_some_and(|caller| !caller.is_empty()) {
                return Err(SessionError::CallerGone);
            }
            if of_line.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                return Err(SessionError::StandInKilled);
            }
            let has_message = !found[0].difference(PollFlags::POLLOUT).is_empty();
            if has_message && self.listened < MAX_LISTENED {
                self.listened += 1;
                return Ok(Wake::Message);
            }
            self.listened = 0;
            if of_others.iter().any(|flags| !flags.is_empty()) {
                return Ok(Wake::Others(of_others));
            }
            if !found[1].is_empty()
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
            // What a machine has said before its end is heard.
            if has_message {
                return Ok(Wake::Message);
            }
            if !found[2].is_empty() {
                return Ok(Wake::MachineEnded);
            }
        }
    }

    /// Whether a signal that this process got is the workload's: SIGCHLD is from its child QEMU.
    fn is_for_the_workload(&self, signal: Received) -> bool {
        match signal.number {
            libc::SIGCHLD => false,
            libc::SIGWINCH => true,
            _ => !(self.has_pair && signal.by_kernel),
        }
    }
}

/// Whether the process at the other end of the line has gone.
fn is_hung_up(line: &Line) -> bool {
    let mut fds = [PollFd::new(line.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|found| found > 0)
}

/// The signal, if it ends a creation: those do that would end a process without a handler and
/// are meant to.
pub(in crate::isolation::vm) fn ends_a_start(signal: i32) -> Option<Signal> {
    Signal::try_from(signal).ok().filter(|signal| {
        matches!(
            signal,
            Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
        )
    })
}

/// The request that makes a container's network what it is on the host.
pub(super) fn network_request(id: &str, network: Network) -> Request {
    Request::Network {
        id: id.to_owned(),
        network: Box::new(network),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
pub(super) mod tests;
