//! The sandbox process from the container's creation to its end: it passes signals and what
//! commands ask on to the agent, and notes how the container stands.
//!
//! The agent answers in the order in which it is asked, so a queue says whose each reply is.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use nacre_agent::protocol::{self, Event, Failure, Request, Target};

use crate::{
    isolation::StatusError,
    log::chain,
    state::{
        By, Folder, Record, StateError, Status,
        record::{self, Progress},
    },
};

use super::{
    VmError,
    clients::{ClientId, Clients},
    disk::Disk,
    session::{Exited, Machine, Session, SessionError, Wake},
    watchdog::{Finding, Watchdog},
    wire::{Answer, Ask},
};

/// How long a container that was killed has to be gone with all its output, before its machine
/// is ended without the guest's help.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The sandbox process, serving.
pub(super) struct Service<'a, M> {
    pub(super) session: Session<'a, M>,
    pub(super) clients: Clients,
    pub(super) notes: Notes<'a>,
    /// Nobody else keeps the container once it is started.
    pub(super) forget_caller_once_started: bool,
    pub(super) disk: Option<Disk>,
    owed: VecDeque<Owed>,
    is_starting: bool,
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
}

/// What is written down of the container.
pub(super) struct Notes<'a> {
    pub(super) folder: &'a Folder,
    pub(super) record: Record,
}

impl Notes<'_> {
    /// Writes down what has changed.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut record::Vm)) -> Result<(), StateError> {
        if let By::Vm(vm) = &mut self.record.by {
            change(vm);
        }
        self.folder.write(&self.record)
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
        watchdog: Duration,
    ) -> Self {
        Self {
            session,
            clients,
            notes,
            forget_caller_once_started: false,
            disk: None,
            owed: VecDeque::new(),
            is_starting: false,
            killed: None,
            watchdog: Watchdog::new(watchdog, Instant::now()),
            exited: None,
        }
    }

    /// Serves until the container has ended, however long that takes. `None` if it was killed,
    /// and is to be ended without the guest's help.
    pub(super) fn serve(&mut self) -> Result<Option<Exited>, VmError> {
        loop {
            if let Some(exited) = self.exited.take() {
                return Ok(Some(exited));
            }
            if let Some(event) = self.session.received()? {
                self.watchdog.heard();
                self.take(event)?;
                continue;
            }
            let deadlines = [
                self.killed,
                self.clients.deadline(),
                self.watchdog.deadline(),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            // While the guest doesn't take what it is sent, no more is read.
            let others = self.clients.interests(self.session.flush()?);
            match self.session.wake(deadline, &others)? {
                Wake::Message => {}
                Wake::Signal(signal) => self.forward(signal)?,
                Wake::MachineEnded => {
                    return Err(SessionError::MachineEnded("the workload's end").into());
                }
                Wake::Others(found) => {
                    for (client, ask) in self.clients.advance(&found) {
                        self.carry_out(client, ask)?;
                    }
                }
                Wake::Deadline => self.clients.drop_silent(),
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

    /// Sees to it that the guest isn't frozen. One that is paused can't say anything, nor can one
    /// that starts its container, which may take hooks some time.
    fn watch(&mut self) -> Result<(), VmError> {
        if self.is_starting || self.notes.is_paused() {
            self.watchdog.heard();
        }
        match self.watchdog.look(Instant::now()) {
            Finding::Nothing => Ok(()),
            Finding::Ask => self.request(&Request::Ping, Owed::Nobody),
            Finding::Frozen(limit) => Err(SessionError::Frozen(limit).into()),
        }
    }

    /// Serves nobody any more. The deadline is when a container that was killed must be gone,
    /// with its output.
    pub(super) fn end(self) -> (Session<'a, M>, Option<Instant>) {
        (self.session, self.killed)
    }

    fn take(&mut self, event: Event) -> Result<(), VmError> {
        match event {
            Event::Reply { result } => match self.owed.pop_front() {
                Some(Owed::Nobody) => {}
                Some(Owed::Client(client)) => {
                    let answer = result.map_or_else(Answer::Failed, Answer::Guest);
                    self.clients.answer(client, &answer);
                }
                Some(Owed::Start(client)) => self.started(client, result)?,
                None => return Err(SessionError::Unasked.into()),
            },
            Event::Exited {
                id,
                status,
                oom_killed,
            } if id == self.session.id && self.exited.is_none() => {
                self.exited = Some(Exited { status, oom_killed });
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

    /// Passes a signal on that this process got.
    fn forward(&mut self, signal: i32) -> Result<(), VmError> {
        let request = Request::Signal {
            id: self.session.id.clone(),
            signal,
            to: Target::First,
        };
        self.request(&request, Owed::Nobody)
    }

    fn request(&mut self, request: &Request, owed: Owed) -> Result<(), VmError> {
        self.session.send(request)?;
        self.owed.push_back(owed);
        Ok(())
    }

    /// Does what a command asks for. An error is this process's end; what goes wrong otherwise
    /// is the command's to hear.
    fn carry_out(&mut self, client: ClientId, ask: Ask) -> Result<(), VmError> {
        let answer = match ask {
            Ask::Start => match self.start(client) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(refusal)) => refused(&refusal),
                Err(error) => return Err(error),
            },
            Ask::Pause => self.pause(),
            Ask::Resume => self.resume(),
            Ask::Disk => self.disk(),
            Ask::Watch => {
                self.clients.watch(client);
                Answer::Done
            }
            Ask::Guest(request) => return self.pass_on(client, &request),
        };
        self.clients.answer(client, &answer);
        Ok(())
    }

    fn start(&mut self, client: ClientId) -> Result<Result<(), StatusError>, VmError> {
        if self.is_starting || self.notes.is_started() {
            return Ok(Err(StatusError::AlreadyRunning));
        }
        if self.notes.is_paused() {
            return Ok(Err(self.not_running(Status::Paused)));
        }
        let request = Request::Start {
            id: self.session.id.clone(),
        };
        self.request(&request, Owed::Start(client))?;
        self.is_starting = true;
        Ok(Ok(()))
    }

    fn pause(&mut self) -> Answer {
        if self.notes.is_paused() {
            return refused(&self.not_running(Status::Paused));
        }
        if let Err(error) = self.session.machine.pause() {
            return refused(&error);
        }
        match self.notes.note(|vm| vm.paused = true) {
            Ok(()) => Answer::Done,
            Err(error) => {
                // The file that is there says what is so.
                let _ = self.session.machine.resume();
                refused(&error)
            }
        }
    }

    fn resume(&mut self) -> Answer {
        if !self.notes.is_paused() {
            return refused(&StatusError::NotPaused);
        }
        let resumed = self.session.machine.resume();
        match resumed.map(|()| self.notes.note(|vm| vm.paused = false)) {
            Ok(Ok(())) => Answer::Done,
            Ok(Err(error)) => refused(&error),
            Err(error) => refused(&error),
        }
    }

    fn disk(&self) -> Answer {
        match self.disk.as_ref().map(Disk::allocated).transpose() {
            Ok(allocated) => Answer::Disk { allocated },
            Err(error) => refused(&error),
        }
    }

    /// Asks the agent what a command wants to know or have done.
    fn pass_on(&mut self, client: ClientId, request: &Request) -> Result<(), VmError> {
        match request {
            // A signal is sent, not obeyed: a guest that stands still gets it when it goes on.
            Request::Signal { signal, .. } => {
                let kills = *signal == libc::SIGKILL;
                if !kills && !self.notes.is_paused() {
                    return self.request(request, Owed::Client(client));
                }
                self.request(request, Owed::Nobody)?;
                if kills {
                    self.kill()?;
                }
                let done = Answer::Guest(protocol::Answer::Done);
                self.clients.answer(client, &done);
                Ok(())
            }
            // These are this process's own to ask.
            Request::Create(_) | Request::Start { .. } | Request::Ping | Request::PowerOff => {
                self.clients.drop(client);
                Ok(())
            }
            _ if self.notes.is_paused() => {
                let refusal = refused(&self.not_running(Status::Paused));
                self.clients.answer(client, &refusal);
                Ok(())
            }
            _ => self.request(request, Owed::Client(client)),
        }
    }

    /// The container has been sent SIGKILL, and must be gone soon. A guest that is paused can't
    /// obey, and needn't.
    fn kill(&mut self) -> Result<(), VmError> {
        let patience = match self.notes.is_paused() {
            true => {
                self.notes.note(|vm| vm.paused = false)?;
                Duration::ZERO
            }
            false => KILL_TIMEOUT,
        };
        self.killed.get_or_insert(Instant::now() + patience);
        Ok(())
    }

    fn not_running(&self, status: Status) -> StatusError {
        let id = self.session.id.clone();
        StatusError::NotRunning { id, status }
    }
}

fn refused(error: &dyn std::error::Error) -> Answer {
    Answer::Failed(Failure {
        message: chain(error),
        status: 1,
    })
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
