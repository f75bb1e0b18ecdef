//! What commands ask of the sandbox process.

use std::time::{Duration, Instant};

use nacre_agent::protocol::{self, Failure, Request, Target};

use super::{ClientId, Disk, LiveNetwork, Machine, Owed, Service};
use crate::{
    isolation::{
        StatusError,
        vm::{
            VmError, limits,
            wire::{Answer, Ask},
        },
    },
    log::chain,
    state::Status,
};

/// How long a container that was killed has to be gone with all its output, before its machine
/// is ended without the guest's help.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl<M: Machine> Service<'_, M> {
    /// Does what a command asks for. An error is this process's end; what goes wrong otherwise
    /// is the command's to hear.
    pub(super) fn carry_out(&mut self, client: ClientId, ask: Ask) -> Result<(), VmError> {
        let answer = match ask {
            Ask::Start => match self.start(client)? {
                None => return Ok(()),
                Some(refusal) => refusal,
            },
            Ask::Pause => self.pause(),
            Ask::Resume => self.resume(),
            Ask::Disk => self.disk(),
            Ask::Watch => {
                self.clients.watch(client);
                Answer::Done
            }
            Ask::Guest(request) => return self.pass_on(client, &request),
            Ask::Exec(exec) => {
                let id = &self.session.id;
                match self.executed.prepare(id, client, *exec) {
                    Ok((pending, exec)) => {
                        let request = Request::Exec(Box::new(exec));
                        self.request(&request, Owed::Exec(pending))?;
                        self.note_executes();
                        return Ok(());
                    }
                    Err(error) => refused(&error),
                }
            }
        };
        self.clients.answer(client, &answer);
        Ok(())
    }

    /// Has the container started, unless that is refused. What its network has got since it was
    /// created is there before its workload is.
    fn start(&mut self, client: ClientId) -> Result<Option<Answer>, VmError> {
        if self.is_starting || self.notes.is_started() {
            return Ok(Some(refused(&StatusError::AlreadyRunning)));
        }
        if self.notes.is_paused() {
            return Ok(Some(refused(&StatusError::CannotStart(Status::Paused))));
        }
        let update = self.network.as_mut().map(LiveNetwork::update);
        match update.unwrap_or(Ok(None)) {
            Ok(Some(network)) => self.tell_network(network, Some(client))?,
            Ok(None) => self.request_start(client)?,
            Err(error) => return Ok(Some(refused(&error))),
        }
        self.is_starting = true;
        Ok(None)
    }

    pub(super) fn request_start(&mut self, client: ClientId) -> Result<(), VmError> {
        let request = Request::Start {
            id: self.session.id.clone(),
        };
        self.request(&request, Owed::Start(client))
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
            Request::Signal { signal, to, .. } => {
                let of_container = !matches!(to, Target::Process(_));
                let kills = *signal == libc::SIGKILL && of_container;
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
            Request::Create(_)
            | Request::Start { .. }
            | Request::Exec(_)
            | Request::Network { .. }
            | Request::Ping
            | Request::PowerOff => {
                self.clients.drop(client);
                Ok(())
            }
            _ if self.notes.is_paused() => {
                let refusal = refused(&self.not_running(Status::Paused));
                self.clients.answer(client, &refusal);
                Ok(())
            }
            Request::Update { resources, .. } => {
                let limit = limits::of_memory(resources);
                self.request(request, Owed::Update(client, limit))
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

pub(in super::super) fn refused(error: &dyn std::error::Error) -> Answer {
    Answer::Failed(Failure {
        message: chain(error),
        status: 1,
    })
}
