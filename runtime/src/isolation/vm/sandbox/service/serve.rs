//! The sandbox process from the container's creation to its end: it passes signals and commands'
//! requests on to the agent, and records the container's state.
//!
//! The agent answers in the order in which it is asked, so a queue says who gets each reply.

use std::{
    collections::VecDeque,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
    time::{Duration, Instant},
};

use nacre_agent::protocol::{self, Event, Failure, Request, Target};
use nacre_vmm::{Allowance, phase};

use crate::{
    isolation::{
        vm::{
            error::{SessionError, VmError},
            limits::WorkloadLimits,
            network::LiveNetwork,
            sandbox::{
                clients::{ClientId, Clients, Endpoint},
                disk::Disk,
                drain::drain,
                executed::{Executed, PendingProcess},
                notes::Notes,
                session::{Exited, Machine, Session, Wake},
                silence::{self, Silence},
                watchdog::{Finding, Watchdog},
            },
            terminal::Terminal,
            wire::{Answer, refused},
        },
        wait::Interest,
    },
    state::record::Progress,
};

use super::{clock, owed::Owed};

/// How long the agent may be at work on a process before the guest counts as frozen: it gives the
/// engine 60 s, and answers nothing else meanwhile.
const EXEC_LIMIT: Duration = Duration::from_secs(75);

/// How often whoever watches is told that memory ran out: this many times at once, and then once
/// per this interval.
const OUT_OF_MEMORY_AT_ONCE: u64 = 64;
const OUT_OF_MEMORY_EACH: Duration = Duration::from_secs(1);

/// What the service takes over.
pub(in crate::isolation::vm::sandbox) struct ServiceParts<'a> {
    pub(in crate::isolation::vm::sandbox) notes: Notes<'a>,
    pub(in crate::isolation::vm::sandbox) clients: Clients,
    pub(in crate::isolation::vm::sandbox) executed: Executed,
    /// The limits that hold back the workload.
    pub(in crate::isolation::vm::sandbox) limits: Option<WorkloadLimits<'a>>,
    /// The workload's terminal, if it has one.
    pub(in crate::isolation::vm::sandbox) terminal: Option<Terminal>,
    pub(in crate::isolation::vm::sandbox) disk: Option<Disk>,
    /// The eventfd that signals that the guest holds many of the host's files.
    pub(in crate::isolation::vm::sandbox) file_alarm: Option<Arc<OwnedFd>>,
    /// The container's network, if it is to be followed.
    pub(in crate::isolation::vm::sandbox) network: Option<LiveNetwork<'a>>,
    pub(in crate::isolation::vm::sandbox) caller_stays: CallerStays,
    /// How long the guest may say nothing; zero means for ever.
    pub(in crate::isolation::vm::sandbox) watchdog: Duration,
}

/// How long somebody waits for the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::isolation::vm::sandbox) enum CallerStays {
    UntilStarted,
    UntilTheEnd,
}

/// What else is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Clients(Endpoint),
    Network,
    FileAlarm,
}

/// The sandbox process, serving.
pub(in crate::isolation::vm::sandbox) struct Service<'a, M> {
    pub(super) session: Session<'a, M>,
    pub(super) clients: Clients,
    pub(super) notes: Notes<'a>,
    caller_stays: CallerStays,
    pub(super) disk: Option<Disk>,
    limits: Option<WorkloadLimits<'a>>,
    terminal: Option<Terminal>,
    pub(super) executed: Executed,
    pub(super) network: Option<LiveNetwork<'a>>,
    file_alarm: Option<Arc<OwnedFd>>,
    pub(super) owed: VecDeque<Owed>,
    pub(super) is_starting: bool,
    /// Until when the guest may be silent because it was asked to start a process.
    executes_until: Option<Instant>,
    /// When a killed container must be gone.
    pub(super) killed: Option<Instant>,
    watchdog: Watchdog,
    silence: Silence,
    pub(super) clock: clock::Schedule,
    exited: Option<Exited>,
    /// Whether a process in the guest was killed for lack of memory.
    ran_out_of_memory: bool,
    out_of_memory: Allowance,
}

impl<'a, M: Machine> Service<'a, M> {
    pub(in crate::isolation::vm::sandbox) fn new(
        session: Session<'a, M>,
        parts: ServiceParts<'a>,
    ) -> Self {
        let now = Instant::now();
        Self {
            session,
            clients: parts.clients,
            notes: parts.notes,
            caller_stays: parts.caller_stays,
            disk: parts.disk,
            limits: parts.limits,
            terminal: parts.terminal,
            executed: parts.executed,
            network: parts.network,
            file_alarm: parts.file_alarm,
            owed: VecDeque::new(),
            is_starting: false,
            executes_until: None,
            killed: None,
            watchdog: Watchdog::new(parts.watchdog, now),
            silence: Silence::new(silence::TICK),
            clock: clock::Schedule::new(now),
            exited: None,
            ran_out_of_memory: false,
            out_of_memory: Allowance::new(OUT_OF_MEMORY_AT_ONCE, OUT_OF_MEMORY_EACH),
        }
    }

    /// Whether a process in the guest was killed for lack of memory.
    pub(in crate::isolation::vm::sandbox) fn ran_out_of_memory(&self) -> bool {
        self.ran_out_of_memory
    }

    /// Serves until the container has ended, however long that takes. Returns `None` if it was
    /// killed, and is to be ended without the guest's help.
    pub(in crate::isolation::vm::sandbox) fn serve(&mut self) -> Result<Option<Exited>, VmError> {
        loop {
            // One message at a time: a guest that never stops talking isn't the only one to be
            // heard.
            let has_more = match self.session.received()? {
                None => None,
                Some(event) => {
                    self.watchdog.heard();
                    self.silence.heard();
                    self.take(event)?;
                    Some(Instant::now())
                }
            };
            if let Some(exited) = self.exited.take() {
                return Ok(Some(exited));
            }
            self.answer_unanswered();
            self.kill_abandoned()?;
            // While the guest doesn't take what it is sent, nothing more is read from clients, and
            // none of them has to say what it wants.
            let reads = self.session.flush()?;
            let deadlines = [
                has_more,
                self.killed,
                self.clients.deadline().filter(|_| reads),
                self.watchdog.deadline(),
                self.silence.deadline(),
                self.clock_due(),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let of_clients = self.clients.interests(reads);
            let of_clients = of_clients.iter().map(|it| it.map(Awaited::Clients));
            let mut others: Vec<_> = of_clients.collect();
            let network = self.network.as_ref().and_then(LiveNetwork::watched);
            others.extend(network.map(|fd| Interest::readable(Awaited::Network, fd)));
            // A guest that is forgetting files isn't asked again.
            let alarm = self.file_alarm.as_ref();
            let alarm = alarm.filter(|_| reads && !self.is_forgetting());
            others.extend(alarm.map(|fd| Interest::readable(Awaited::FileAlarm, fd.as_fd())));
            match self.session.wake(deadline, &others)? {
                Wake::Message => {}
                Wake::Signal(signal) => self.forward(signal)?,
                Wake::MachineEnded => {
                    return Err(SessionError::MachineEnded("the workload's end").into());
                }
                Wake::Others(events) => {
                    if let Some(alarm) = alarm
                        && events.has(Awaited::FileAlarm)
                    {
                        let _ = rustix::io::read(alarm, &mut [0; 8]);
                        self.request(&Request::ForgetFiles, Owed::Forgetting)?;
                    }
                    if events.has(Awaited::Network) {
                        self.follow_network()?;
                    }
                    let of_clients = events.filter_map(|awaited| match awaited {
                        Awaited::Clients(endpoint) => Some(*endpoint),
                        Awaited::Network | Awaited::FileAlarm => None,
                    });
                    for (client, ask) in self.clients.advance(&of_clients) {
                        self.carry_out(client, ask)?;
                    }
                }
                Wake::Deadline if reads => self.clients.drop_silent(),
                Wake::Deadline => {}
            }
            if self
                .killed
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(None);
            }
            self.watch()?;
            self.follow_clock()?;
        }
    }

    pub(super) fn is_forgetting(&self) -> bool {
        self.owed
            .iter()
            .any(|owed| matches!(owed, Owed::Forgetting))
    }

    /// Makes sure that the guest isn't frozen. A guest that is paused can't say anything; nor, for
    /// a while, can one that runs hooks as it starts its container, or that starts a process.
    fn watch(&mut self) -> Result<(), VmError> {
        let executes = self.executes_until.is_some_and(|end| Instant::now() < end);
        let runs_hooks = self.is_starting && self.notes.has_start_hooks();
        if runs_hooks || executes || self.notes.is_paused() {
            self.watchdog.heard();
        }
        let effort = &mut self.session.effort;
        match self.watchdog.look(Instant::now(), |part| effort.had(part)) {
            Finding::Nothing => Ok(()),
            Finding::Ask => self.request(&Request::Ping, Owed::Nobody),
            Finding::Frozen(limit) => Err(SessionError::Frozen(limit).into()),
        }
    }

    /// Answers clients that have waited too long for a guest that says nothing. Its own answer is
    /// still taken, if it comes.
    fn answer_unanswered(&mut self) {
        let waits = |owed: &Owed| owed.waits().is_some_and(|client| self.clients.has(client));
        if self.notes.is_paused() || !self.owed.iter().any(waits) {
            return self.silence.heard();
        }
        let effort = &mut self.session.effort;
        self.silence.look(Instant::now(), |computed, passed| {
            effort.had_since(computed, passed)
        });
        for owed in &self.owed {
            let Some(client) = owed.waits() else {
                continue;
            };
            let answer = if !matches!(owed, Owed::Signal(_)) {
                self.silence.long().map(unanswered)
            } else if self.silence.is_long_for_a_signal() {
                Some(Answer::Guest(protocol::Answer::Done))
            } else {
                None
            };
            let Some(answer) = answer else {
                continue;
            };
            self.clients.answer(client, &answer);
            self.clients.drop(client);
        }
    }

    pub(super) fn lift_limits(&self) {
        if let Some(limits) = &self.limits {
            limits.lift();
        }
    }

    /// Waits until whoever reads the workload's output has taken all of it, which is when `output`
    /// is at its end of file. Whoever waits for a process of the container hears that it has ended.
    pub(in crate::isolation::vm::sandbox) fn drain(
        mut self,
        output: &UnixStream,
    ) -> Result<(), VmError> {
        self.lift_limits();
        self.clients.hang_up();
        Ok(drain(&mut self.session, self.clients, output, self.killed)?)
    }

    fn take(&mut self, event: Event) -> Result<(), VmError> {
        match event {
            Event::Reply { result } => match self.owed.pop_front() {
                Some(Owed::Nobody) => {}
                Some(Owed::Forgetting) => {
                    if let Err(failure) = result {
                        tracing::warn!("container {}: {}", self.session.id, failure.message);
                    }
                }
                Some(Owed::Client(client) | Owed::Signal(client)) => {
                    let answer = result.map_or_else(Answer::Failed, Answer::Guest);
                    self.clients.answer(client, &answer);
                }
                Some(Owed::Update(client, limit)) => self.updated(client, limit, result),
                Some(Owed::Start(client)) => self.started(client, result)?,
                Some(Owed::Exec(pending)) => self.executed(pending, result)?,
                Some(Owed::Clock(question)) => self.clock_told(question, result)?,
                Some(Owed::Network(starts)) => self.network_told(starts, result)?,
                None => return Err(SessionError::Unasked.into()),
            },
            Event::Exited {
                id,
                status,
                oom_killed,
                used,
            } if id == self.session.id && self.exited.is_none() => {
                self.exited = Some(Exited {
                    status,
                    oom_killed,
                    used,
                });
            }
            Event::ProcessExited {
                id,
                process,
                status,
            } if id == self.session.id => {
                if !self.executed.ended(process, status, &mut self.clients) {
                    return Err(SessionError::Unasked.into());
                }
            }
            Event::OutOfMemory { id } if id == self.session.id => {
                self.ran_out_of_memory = true;
                if self.out_of_memory.take(1) {
                    self.clients.tell(&Answer::OutOfMemory);
                }
            }
            _ => return Err(SessionError::Unasked.into()),
        }
        Ok(())
    }

    fn started(
        &mut self,
        client: ClientId,
        result: Result<protocol::Answer, Failure>,
    ) -> Result<(), VmError> {
        self.is_starting = false;
        if let Err(failure) = result {
            self.clients.answer(client, &Answer::Failed(failure));
            return Ok(());
        }
        self.notes.note(|vm| vm.progress = Progress::Started)?;
        phase::ended("exec");
        if self.caller_stays == CallerStays::UntilStarted {
            self.session.forget_caller();
        }
        self.clients.answer(client, &Answer::Done);
        for signal in std::mem::take(&mut self.session.pending) {
            self.forward(signal)?;
        }
        self.session.hears_signals = true;
        Ok(())
    }

    fn updated(
        &mut self,
        client: ClientId,
        memory_limit: Option<i64>,
        result: Result<protocol::Answer, Failure>,
    ) {
        let noted = match (&result, memory_limit) {
            (Ok(_), Some(_)) => self.notes.note(|vm| vm.memory_limit = memory_limit),
            _ => Ok(()),
        };
        let answer = match noted {
            Ok(()) => result.map_or_else(Answer::Failed, Answer::Guest),
            Err(error) => refused(&error),
        };
        self.clients.answer(client, &answer);
    }

    /// Takes the agent's answer on whether a process runs that a command asked for.
    fn executed(
        &mut self,
        pending: PendingProcess,
        result: Result<protocol::Answer, Failure>,
    ) -> Result<(), VmError> {
        self.executes_until = None;
        self.note_executes();
        match result {
            Ok(protocol::Answer::Executed { .. }) => {
                self.executed.started(pending, &mut self.clients);
            }
            Ok(_) => return Err(SessionError::Unasked.into()),
            Err(failure) => {
                self.executed.failed(&pending);
                let failed = Answer::Failed(failure);
                self.clients.answer(pending.client(), &failed);
            }
        }
        Ok(())
    }

    /// Notes until when the guest may be busy starting a process. The agent starts one at a time;
    /// further requests give the first no more time.
    pub(super) fn note_executes(&mut self) {
        if self.owed.iter().any(|owed| matches!(owed, Owed::Exec(_))) {
            let end = Instant::now() + EXEC_LIMIT;
            self.executes_until.get_or_insert(end);
        }
    }

    /// Kills the processes whose commands have gone.
    fn kill_abandoned(&mut self) -> Result<(), VmError> {
        for number in self.executed.abandoned(&self.clients) {
            let request = Request::Signal {
                id: self.session.id.clone(),
                signal: libc::SIGKILL,
                to: Target::Process(number),
            };
            self.request(&request, Owed::Nobody)?;
        }
        Ok(())
    }

    /// Passes on a signal that this process got.
    fn forward(&mut self, signal: i32) -> Result<(), VmError> {
        let id = self.session.id.clone();
        let request = match (&self.terminal, signal) {
            (Some(terminal), libc::SIGWINCH) => match terminal.size() {
                Some(size) => Request::Resize {
                    id,
                    process: None,
                    size,
                },
                None => return Ok(()),
            },
            _ => Request::Signal {
                id,
                signal,
                to: Target::First,
            },
        };
        self.request(&request, Owed::Nobody)
    }

    pub(super) fn request(&mut self, request: &Request, owed: Owed) -> Result<(), VmError> {
        self.session.send(request)?;
        self.owed.push_back(owed);
        Ok(())
    }
}

fn unanswered(time: Duration) -> Answer {
    let seconds = time.as_secs();
    Answer::Failed(Failure {
        message: format!(
            "the guest hasn't answered for {seconds} s: it is frozen, or busy with something else"
        ),
        status: 1,
    })
}

#[cfg(test)]
#[path = "tests/mod.rs"]
mod tests;
