//! The conversation with the agent in a running guest, from its hello to its power-off.
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

use nacre_agent::protocol::{Create, Event, Failure, Hello, Request, Target, VERSION};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use serde::de::DeserializeOwned;

use super::{
    control::{Control, ControlError},
    signals::{Signals, ends_a_start},
};

/// How long a guest that was told to power off may take to, writing back what it has cached.
const POWER_OFF_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the machine's end is waited for after its agent has hung up: it says more.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the conversation ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the guest didn't say hello within {} s", .0.as_secs_f32())]
    NoHello(Duration),
    #[error("the guest's agent speaks version {theirs} of the protocol, nacre version {VERSION}")]
    Version { theirs: u32 },
    #[error("the guest didn't {what} within {} s", timeout.as_secs_f32())]
    NoReply {
        what: &'static str,
        timeout: Duration,
    },
    #[error("the guest ended while nacre waited for {0}")]
    MachineEnded(&'static str),
    #[error("the guest sent what nobody asked for")]
    Unasked,
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What the engine in the guest says, in words made for whoever runs nacre.
    #[error("{}", .0.message)]
    Refused(Failure),
    #[error("ended by {0} before the container was started")]
    Interrupted(Signal),
    #[error("the nacre run that waited for the container is gone")]
    CallerGone,
    #[error("can't wait for the guest")]
    Poll(#[source] io::Error),
}

impl SessionError {
    /// Whether the guest is to blame, so that its console may say why.
    pub(super) fn is_the_guests(&self) -> bool {
        match self {
            Self::NoHello(_)
            | Self::Version { .. }
            | Self::NoReply { .. }
            | Self::MachineEnded(_)
            | Self::Unasked
            | Self::Control(_) => true,
            Self::Refused(_) | Self::Interrupted(_) | Self::CallerGone | Self::Poll(_) => false,
        }
    }
}

/// The running machine, as far as the conversation goes.
pub(super) trait Machine {
    /// Readable once the machine has ended.
    fn ended(&self) -> BorrowedFd<'_>;
}

impl Machine for nacre_vmm::RunningVm {
    fn ended(&self) -> BorrowedFd<'_> {
        self.exit_event()
    }
}

/// How a container's workload ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exited {
    pub(super) status: u8,
    pub(super) oom_killed: bool,
}

/// A conversation about one container.
pub(super) struct Session<'a, M> {
    machine: &'a M,
    control: Control,
    signals: &'a Signals,
    /// The process that waits for the container; it never writes. `None` once nobody waits.
    caller: Option<&'a UnixStream>,
    id: String,
    /// Replies to signals that haven't come yet.
    owed: u32,
    /// Signals that came before there was a workload.
    pending: Vec<Signal>,
    exited: Option<Exited>,
}

/// What woke the session.
enum Wake {
    Message,
    Signal(Signal),
    MachineEnded,
    Done,
    Deadline,
}

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
            id: id.into(),
            owed: 0,
            pending: Vec::new(),
            exited: None,
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
        Ok(hello)
    }

    /// Has the container made.
    pub(super) fn create(&mut self, create: Create, timeout: Duration) -> Result<(), SessionError> {
        self.request(
            &Request::Create(Box::new(create)),
            "create the container",
            timeout,
        )
    }

    /// Has its workload started.
    pub(super) fn start(&mut self, timeout: Duration) -> Result<(), SessionError> {
        let request = Request::Start {
            id: self.id.clone(),
        };
        self.request(&request, "start the container", timeout)?;
        for signal in std::mem::take(&mut self.pending) {
            self.forward(signal)?;
        }
        Ok(())
    }

    /// Waits for the workload's end, however long that takes.
    pub(super) fn wait(&mut self) -> Result<Exited, SessionError> {
        loop {
            if let Some(exited) = self.exited.take() {
                return Ok(exited);
            }
            if let Some(event) = self.received()? {
                self.take_event(event)?;
                continue;
            }
            match self.wake(None, None)? {
                Wake::Signal(signal) => self.forward(signal)?,
                Wake::MachineEnded => {
                    return Err(SessionError::MachineEnded("the workload's end"));
                }
                Wake::Message | Wake::Done | Wake::Deadline => {}
            }
        }
    }

    /// Waits until `done` is at its end of file, that is, until whoever reads the workload's
    /// output has taken all of it, or a signal says that it needn't.
    pub(super) fn drain(&mut self, done: &UnixStream) -> Result<(), SessionError> {
        loop {
            if let Some(event) = self.received()? {
                self.take_event(event)?;
                continue;
            }
            match self.wake(None, Some(done))? {
                Wake::Signal(signal) if ends_a_start(signal) => return Ok(()),
                Wake::Message | Wake::Signal(_) | Wake::Deadline => {}
                Wake::MachineEnded => {
                    return Err(SessionError::MachineEnded("the workload's output"));
                }
                Wake::Done => return Ok(()),
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
            if self.control.has_outgoing() {
                fds.push(PollFd::new(self.control.as_fd(), PollFlags::POLLOUT));
            }
            match poll(&mut fds, timeout(left)) {
                Err(Errno::EINTR) | Ok(0) => {}
                Err(e) => return Err(SessionError::Poll(e.into())),
                Ok(_) if fds[0].any().unwrap_or(true) => return Ok(()),
                Ok(_) if self.caller.is_some() && fds[1].any().unwrap_or(true) => {
                    return Err(SessionError::CallerGone);
                }
                Ok(_) => {}
            }
        }
    }

    fn request(
        &mut self,
        request: &Request,
        what: &'static str,
        timeout: Duration,
    ) -> Result<(), SessionError> {
        self.control.send(request)?;
        let deadline = Instant::now() + timeout;
        loop {
            match self.message(deadline, "its answer")? {
                Some(Event::Reply { result }) => {
                    return result.map(drop).map_err(SessionError::Refused);
                }
                Some(event) => self.take_event(event)?,
                None => return Err(SessionError::NoReply { what, timeout }),
            }
        }
    }

    /// Waits for a message of a start; `None` at the deadline. Signals that would end a
    /// process end the start, others are kept for the workload.
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
            match self.wake(Some(deadline), None)? {
                Wake::Message | Wake::Done => {}
                Wake::Signal(signal) if ends_a_start(signal) => {
                    return Err(SessionError::Interrupted(signal));
                }
                Wake::Signal(signal) if self.pending.contains(&signal) => {}
                Wake::Signal(signal) => self.pending.push(signal),
                Wake::MachineEnded => return Err(SessionError::MachineEnded(what)),
                Wake::Deadline => return Ok(None),
            }
        }
    }

    /// The next message, if it has arrived.
    fn received<T: DeserializeOwned>(&mut self) -> Result<Option<T>, SessionError> {
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

    /// Takes an event that isn't the reply to a start's request.
    fn take_event(&mut self, event: Event) -> Result<(), SessionError> {
        match event {
            // A signal that came too late is nobody's error.
            Event::Reply { .. } if self.owed > 0 => self.owed -= 1,
            Event::Exited {
                id,
                status,
                oom_killed,
            } if id == self.id && self.exited.is_none() => {
                self.exited = Some(Exited { status, oom_killed });
            }
            Event::OutOfMemory { id } if id == self.id => {}
            _ => return Err(SessionError::Unasked),
        }
        Ok(())
    }

    fn forward(&mut self, signal: Signal) -> Result<(), SessionError> {
        let request = Request::Signal {
            id: self.id.clone(),
            signal: signal as i32,
            to: Target::First,
        };
        self.control.send(&request)?;
        self.owed += 1;
        Ok(())
    }

    /// Waits for whatever comes first.
    fn wake(
        &mut self,
        deadline: Option<Instant>,
        done: Option<&UnixStream>,
    ) -> Result<Wake, SessionError> {
        loop {
            match self.control.flush() {
                Err(ControlError::Closed) => return Err(self.hung_up()),
                flushed => flushed?,
            }
            let left = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return Ok(Wake::Deadline),
                Some(left) => timeout(left),
                None => PollTimeout::NONE,
            };
            // A guest that reads nothing gets no more signals: they wait in the kernel, which
            // keeps one of each.
            let (of_control, of_signals) = if self.control.has_outgoing() {
                (PollFlags::POLLIN | PollFlags::POLLOUT, PollFlags::empty())
            } else {
                (PollFlags::POLLIN, PollFlags::POLLIN)
            };
            let mut fds = vec![
                PollFd::new(self.control.as_fd(), of_control),
                PollFd::new(self.signals.as_fd(), of_signals),
                PollFd::new(self.machine.ended(), PollFlags::POLLIN),
            ];
            let optional = [self.caller, done].into_iter().flatten();
            fds.extend(optional.map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, left) {
                Err(Errno::EINTR) | Ok(0) => continue,
                Err(e) => return Err(SessionError::Poll(e.into())),
                Ok(_) => {}
            }
            let found: Vec<PollFlags> = fds
                .iter()
                .map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR))
                .collect();
            let happened = |i: usize| !found[i].is_empty();
            if self.caller.is_some() && happened(3) {
                return Err(SessionError::CallerGone);
            }
            if !found[0].difference(PollFlags::POLLOUT).is_empty() {
                return Ok(Wake::Message);
            }
            if done.is_some() && happened(found.len() - 1) {
                return Ok(Wake::Done);
            }
            if happened(1)
                && let Some(signal) = self.signals.next().map_err(SessionError::Poll)?
            {
                return Ok(Wake::Signal(signal));
            }
            if happened(2) {
                return Ok(Wake::MachineEnded);
            }
        }
    }
}

/// A duration for poll, rounded up to its milliseconds.
fn timeout(left: Duration) -> PollTimeout {
    let milliseconds = left.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
