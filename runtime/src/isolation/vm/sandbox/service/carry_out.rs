//! What commands ask of the sandbox process.

use std::time::{Duration, Instant};

use nacre_agent::protocol::{self, Request, Target};

use crate::{
    isolation::{
        status_error::StatusError,
        vm::{
            error::VmError,
            limits,
            network::LiveNetwork,
            sandbox::{clients::ClientId, disk::Disk, session::Machine},
            wire::{Answer, Ask, GuestAsk, refused},
        },
    },
    state::Status,
};

use super::{clock::Why, owed::Owed, serve::Service};

/// How long a container that was killed may take to be gone with all its output before its machine
/// is ended without the guest's help: Podman gives it 5 s in all.
const KILL_TIMEOUT: Duration = Duration::from_secs(3);

impl<M: Machine> Service<'_, M> {
    /// Does what a command asks for. An error ends this process; anything else that goes wrong is
    /// reported to the command.
    pub(super) fn carry_out(&mut self, client: ClientId, ask: Ask) -> Result<(), VmError> {
        let answer = match ask {
            Ask::Start => match self.start(client)? {
                None => return Ok(()),
                Some(refusal) => refusal,
            },
            Ask::Pause => self.pause(),
            Ask::Resume => {
                let answer = self.resume();
                if let Answer::Done = answer {
                    self.look_at_clock(Why::Resume)?;
                }
                answer
            }
            Ask::Disk => self.disk(),
            Ask::Watch => {
                self.clients.watch(client);
                Answer::Done
            }
            Ask::Guest(ask) => return self.pass_on(client, ask),
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
            Ok(None) => self.look_at_clock(Why::Start(client))?,
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
                // The record that is on disk still holds.
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

    /// Asks the agent for what a command wants to know or have done.
    fn pass_on(&mut self, client: ClientId, ask: GuestAsk) -> Result<(), VmError> {
        let owed = match &ask {
            GuestAsk::Signal { signal, to } => {
                let (signal, to) = (*signal, *to);
                return self.pass_signal_on(client, signal, to);
            }
            _ if self.notes.is_paused() => {
                let refusal = refused(&self.not_running(Status::Paused));
                self.clients.answer(client, &refusal);
                return Ok(());
            }
            GuestAsk::Update { resources } => Owed::Update(client, limits::of_memory(resources)),
            GuestAsk::Resize { .. }
            | GuestAsk::Processes
            | GuestAsk::Stats
            | GuestAsk::KernelLog
            | GuestAsk::Written => Owed::Client(client),
        };
        self.request(&ask.request(&self.session.id), owed)
    }

    /// Passes a signal on. It is sent, not obeyed: a guest that is paused gets it when it goes on.
    fn pass_signal_on(&mut self, client: ClientId, signal: i32, to: Target) -> Result<(), VmError> {
        let request = GuestAsk::Signal { signal, to }.request(&self.session.id);
        let of_container = !matches!(to, Target::Process(_));
        let kills = signal == libc::SIGKILL && of_container;
        if !kills && !self.notes.is_paused() {
            return self.request(&request, Owed::Signal(client));
        }
        self.request(&request, Owed::Nobody)?;
        if kills {
            self.kill()?;
        }
        let done = Answer::Guest(protocol::Answer::Done);
        self.clients.answer(client, &done);
        Ok(())
    }

    /// Starts the wait for a container that has been sent SIGKILL, and must be gone soon. A guest
    /// that is paused can't obey, and needn't.
    fn kill(&mut self) -> Result<(), VmError> {
        self.lift_limits();
        let patience = if self.notes.is_paused() {
            self.notes.note(|vm| vm.paused = false)?;
            Duration::ZERO
        } else {
            KILL_TIMEOUT
        };
        self.killed.get_or_insert(Instant::now() + patience);
        Ok(())
    }

    fn not_running(&self, status: Status) -> StatusError {
        let id = self.session.id.clone();
        StatusError::NotRunning { id, status }
    }
}
