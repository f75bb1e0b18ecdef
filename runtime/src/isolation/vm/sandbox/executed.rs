//! The processes that commands have had started in the guest, as the sandbox process keeps track of
//! them: the ports of their streams, their numbers, and their commands.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
};

use nacre_agent::protocol::{self, Streams};

use crate::isolation::vm::{
    streams::Expected,
    wire::{Answer, Exec},
};

use super::{
    clients::{ClientId, Clients},
    file_policy::FilePolicy,
};

/// The processes of a container.
pub(super) struct Executed {
    expected: Expected,
    file_policy: FilePolicy,
    /// The number of the last one.
    last: u32,
    running: Vec<RunningProcess>,
}

struct RunningProcess {
    number: u32,
    /// The command that stands for it; `None` once that is gone.
    client: Option<ClientId>,
}

/// A process that the agent was asked to start.
pub(super) struct PendingProcess {
    client: ClientId,
    number: u32,
    ports: Streams,
    /// The host's ends of its streams.
    ends: Vec<UnixStream>,
}

impl Executed {
    pub(super) fn new(expected: Expected, file_policy: FilePolicy) -> Self {
        Self {
            expected,
            file_policy,
            last: 0,
            running: Vec::new(),
        }
    }

    /// Prepares what to ask the agent for on behalf of a command.
    pub(super) fn prepare(
        &mut self,
        id: &str,
        client: ClientId,
        exec: Exec,
    ) -> io::Result<(PendingProcess, protocol::Exec)> {
        let (ports, ends) = self.expected.expect(exec.streams)?;
        self.file_policy
            .join(&exec.process)
            .map_err(io::Error::other)?;
        self.last = self.last.wrapping_add(1);
        let number = self.last;
        let request = protocol::Exec {
            id: id.into(),
            number,
            process: exec.process,
            streams: ports,
            cgroups: exec.cgroups,
        };
        let pending = PendingProcess {
            client,
            number,
            ports,
            ends,
        };
        Ok((pending, request))
    }

    /// Tells the command that its process runs.
    pub(super) fn started(&mut self, pending: PendingProcess, clients: &mut Clients) {
        let ends: Vec<_> = pending.ends.iter().map(AsRawFd::as_raw_fd).collect();
        let answer = Answer::Executed {
            number: pending.number,
        };
        // `abandoned` finds a client that has gone meanwhile.
        clients.answer_with(pending.client, &answer, &ends);
        self.running.push(RunningProcess {
            number: pending.number,
            client: Some(pending.client),
        });
    }

    /// Forgets a process that couldn't be started.
    pub(super) fn failed(&mut self, pending: &PendingProcess) {
        self.expected.forget(&pending.ports);
    }

    /// Tells the command that its process has ended. Returns false if there is none of that number.
    pub(super) fn ended(&mut self, number: u32, status: u8, clients: &mut Clients) -> bool {
        let place = self.running.iter().position(|r| r.number == number);
        let Some(place) = place else {
            return false;
        };
        if let Some(client) = self.running.swap_remove(place).client {
            clients.answer(client, &Answer::Exited { status });
        }
        true
    }

    /// Returns the numbers of the processes whose commands are gone, each once: they are to be
    /// killed.
    pub(super) fn abandoned(&mut self, clients: &Clients) -> Vec<u32> {
        let abandoned = self.running.iter_mut().filter_map(|running| {
            let gone = running.client.is_some_and(|client| !clients.has(client));
            gone.then(|| {
                running.client = None;
                running.number
            })
        });
        abandoned.collect()
    }
}

impl PendingProcess {
    /// The command that asked.
    pub(super) fn client(&self) -> ClientId {
        self.client
    }
}
