//! The sandbox process from the container's creation to its end: it passes signals and what
//! commands ask on to the agent, and notes how the container stands.
//!
//! The agent answers in the order in which it is asked, so a queue says whose each reply is.

mod asks;
mod network;

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
use nix::poll::PollFlags;

use crate::state::{
    By, Folder, Record, StateError,
    record::{self, Progress},
};

use super::{
    clients::{ClientId, Clients},
    disk::Disk,
    drain::drain,
    executed::{Executed, Pending},
    session::{Exited, Machine, Session, SessionError, Wake, network_request},
    watchdog::{Finding, Watchdog},
};
use crate::isolation::vm::{
    VmError, commands::EXEC_TIMEOUT, network::LiveNetwork, terminal::Terminal, wire::Answer,
};

pub(super) use asks::refused;

/// The sandbox process, serving.
pub(super) struct Service<'a, M> {
    pub(super) session: Session<'a, M>,
    pub(super) clients: Clients,
    pub(super) notes: Notes<'a>,
    /// Nobody else keeps the container once it is started.
    pub(super) forget_caller_once_started: bool,
    pub(super) disk: Option<Disk>,
    /// The workload's terminal, if it has one.
    pub(super) terminal: Option<Terminal>,
    executed: Executed,
    /// The container's network, to be followed.
    pub(super) network: Option<LiveNetwork<'a>>,
    /// The eventfd that tells that the guest holds many of the host's files.
    pub(super) file_alarm: Option<Arc<OwnedFd>>,
    owed: VecDeque<Owed>,
    is_starting: bool,
    /// Until when the guest may be silent over a process that it was asked to start.
    executes_until: Option<Instant>,
    /// When the container must be gone.
    killed: Option<Instant>,
    watchdog: Watchdog,
    exited: Option<Exited>,
}

/// Whose the agent's reply is.
enum Owed {
    /// What is asked for a signal that this process got concerns nobody.
    Nobody,
    Start(ClientId),
    Client(ClientId),
    /// Other limits, with the container's limit on memory if that is one of them.
    Update(ClientId, Option<i64>),
    Exec(Pending),
    /// Told to forget files.
    Forgetting,
    /// Told of a change of the network; the container that this client starts waits for it.
    Network(Option<ClientId>),
}

/// What is written down of the container.
pub(super) struct Notes<'a> {
    pub(super) folder: &'a Folder,
    pub(super) record: Record,
}

impl Notes<'_> {
    /// Writes down what has changed. If that can't be written, nothing has.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut record::Vm)) -> Result<(), StateError> {
        let mut record = self.record.clone();
        if let By::Vm(vm) = &mut record.by {
            change(vm);
        }
        self.folder.write(&record)?;
        self.record = record;
        Ok(())
    }

    fn vm(&self) -> Option<&record::Vm> {
        match &self.record.by {
            By::Vm(vm) => Some(vm),
            By::Process(_) => None,
        }
    }

    fn is_paused(&self) -> bool {
        self.vm().is_some_and(|vm| vm.paused)
    }

    fn is_started(&self) -> bool {
        self.vm().is_some_and(|vm| vm.progress == Progress::Started)
    }
}

impl<'a, M: Machine> Service<'a, M> {
    pub(super) fn new(
        session: Session<'a, M>,
        clients: Clients,
        notes: Notes<'a>,
        executed: Executed,
        watchdog: Duration,
    ) -> Self {
        Self {
            session,
            clients,
            notes,
            forget_caller_once_started: false,
            disk: None,
            terminal: None,
            executed,
            network: None,
            file_alarm: None,
            owed: VecDeque::new(),
            is_starting: false,
            executes_until: None,
            killed: None,
            watchdog: Watchdog::new(watchdog, Instant::now()),
            exited: None,
        }
    }

    /// Serves until the container has ended, however long that takes. `None` if it was killed,
    /// and is to be ended without the guest's help.
    pub(super) fn serve(&mut self) -> Result<Option<Exited>, VmError> {
        loop {
            // One at a time: a guest that never stops talking isn't the only one to be heard.
            let has_more = match self.session.received()? {
                None => None,
                Some(event) => {
                    self.watchdog.heard();
                    self.take(event)?;
                    Some(Instant::now())
                }
            };
            if let Some(exited) = self.exited.take() {
                return Ok(Some(exited));
            }
            self.kill_abandoned()?;
            // While the guest doesn't take what it is sent, no more is read, nor does anybody have
            // to say what they want.
            let reads = self.session.flush()?;
            let deadlines = [
                has_more,
                self.killed,
                self.clients.deadline().filter(|_| reads),
                self.watchdog.deadline(),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let mut others = self.clients.interests(reads);
            let watched = self.network.as_ref().and_then(LiveNetwork::watched);
            others.extend(watched.map(|network| (network, PollFlags::POLLIN)));
            let watches_network = watched.is_some();
            // A guest that forgets isn't asked to once more.
            let alarm = self.file_alarm.as_ref();
            let alarm = alarm.filter(|_| reads && !self.is_forgetting());
            others.extend(alarm.map(|alarm| (alarm.as_fd(), PollFlags::POLLIN)));
            match self.session.wake(deadline, &others)? {
                Wake::Message => {}
                Wake::Signal(signal) => self.forward(signal)?,
                Wake::MachineEnded => {
                    return Err(SessionError::MachineEnded("the workload's end").into());
                }
                Wake::Others(mut found) => {
                    if let Some(alarm) = alarm
                        && found.pop().is_some_and(|flags| !flags.is_empty())
                    {
                        let _ = rustix::io::read(alarm, &mut [0; 8]);
                        self.request(&Request::ForgetFiles, Owed::Forgetting)?;
                    }
                    let network = if watches_network { found.pop() } else { None };
                    if network.is_some_and(|flags| !flags.is_empty()) {
                        self.follow_network()?;
                    }
                    for (client, ask) in self.clients.advance(&found) {
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
        }
    }

    fn is_forgetting(&self) -> bool {
        self.owed
            .iter()
            .any(|owed| matches!(owed, Owed::Forgetting))
    }

    /// Sees to it that the guest isn't frozen. One that is paused can't say anything, nor can one
    /// that starts its container, which may take hooks some time, or a process, for a while.
    fn watch(&mut self) -> Result<(), VmError> {
        let executes = self.executes_until.is_some_and(|end| Instant::now() < end);
        if self.is_starting || executes || self.notes.is_paused() {
            self.watchdog.heard();
        }
        match self.watchdog.look(Instant::now()) {
            Finding::Nothing => Ok(()),
            Finding::Ask => self.request(&Request::Ping, Owed::Nobody),
            Finding::Frozen(limit) => Err(SessionError::Frozen(limit).into()),
        }
    }

    /// Waits until whoever reads the workload's output has taken all of it, which is when `output`
    /// is at its end of file. Whoever waits for a process of the container's hears of its end.
    pub(super) fn drain(mut self, output: &UnixStream) -> Result<Session<'a, M>, VmError> {
        self.clients.hang_up();
        drain(&mut self.session, self.clients, output, self.killed)?;
        Ok(self.session)
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
                Some(Owed::Client(client)) => {
                    let answer = result.map_or_else(Answer::Failed, Answer::Guest);
                    self.clients.answer(client, &answer);
                }
                Some(Owed::Update(client, limit)) => self.updated(client, limit, result),
                Some(Owed::Start(client)) => self.started(client, result)?,
                Some(Owed::Exec(pending)) => self.executed(pending, result)?,
                Some(Owed::Network(starts)) => self.network_told(starts, result)?,
                None => return Err(SessionError::Unasked.into()),
            },
            Event::Exited {
                id,
                status,
                oom_killed,
            } if id == self.session.id && self.exited.is_none() => {
                self.exited = Some(Exited { status, oom_killed });
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
                self.clients.tell(&Answer::OutOfMemory);
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
        if self.forget_caller_once_started {
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

    /// The agent has answered whether a process runs that a command asked for.
    fn executed(
        &mut self,
        pending: Pending,
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

    /// The agent starts one process after the other. That more are asked for meanwhile gives the
    /// first no more time.
    fn note_executes(&mut self) {
        if self.owed.iter().any(|owed| matches!(owed, Owed::Exec(_))) {
            let end = Instant::now() + EXEC_TIMEOUT;
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

    /// Passes a signal on that this process got.
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

    fn request(&mut self, request: &Request, owed: Owed) -> Result<(), VmError> {
        self.session.send(request)?;
        self.owed.push_back(owed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
