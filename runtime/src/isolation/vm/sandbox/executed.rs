//! The processes that commands have had started in the guest, as the sandbox process keeps
//! them: the ports of their streams, their numbers, and whose they are.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream},
};

use nacre_agent::protocol::{self, Streams};

use super::clients::{ClientId, Clients};
use crate::isolation::vm::{
    streams::Expected,
    wire::{Answer, Exec},
};

/// Those of a container.
pub(super) struct Executed {
    expected: Expected,
    /// The last one's number.
    last: u32,
    running: Vec<Running>,
}

struct Running {
    number: u32,
    /// The command that stands for it; `None` once that is gone.
    client: Option<ClientId>,
}

/// One that the agent was asked to start.
pub(super) struct Pending {
    client: ClientId,
    number: u32,
    ports: Streams,
    /// The host's ends of its streams.
    ends: Vec<UnixStream>,
}

impl Executed {
    pub(super) fn new(expected: Expected) -> Self {
        Self {
            expected,
            last: 0,
            running: Vec::new(),
        }
    }

    /// What the agent is to be asked for a command.
    pub(super) fn prepare(
        &mut self,
        id: &str,
        client: ClientId,
        exec: Exec,
    ) -> io::Result<(Pending, protocol::Exec)> {
        let (ports, ends) = self.expected.expect(exec.streams)?;
        self.last = self.last.wrapping_add(1);
        let number = self.last;
        let request = protocol::Exec {
            id: id.into(),
            number,
            process: exec.process,
            streams: ports,
            cgroups: exec.cgroups,
        };
        let pending = Pending {
            client,
            number,
            ports,
            ends,
        };
        Ok((pending, request))
    }

    /// It runs: its command is told.
    pub(super) fn started(&mut self, pending: Pending, clients: &mut Clients) {
        let ends: Vec<_> = pending.ends.iter().map(AsRawFd::as_raw_fd).collect();
        let answer = Answer::Executed {
            number: pending.number,
        };
        // One that has gone meanwhile is found by `abandoned`.
        clients.answer_with(pending.client, &answer, &ends);
        self.running.push(Running {
            number: pending.number,
            client: Some(pending.client),
        });
    }

    /// It couldn't be started.
    pub(super) fn failed(&mut self, pending: &Pending) {
        self.expected.forget(&pending.ports);
    }

    /// One has ended: its command is told. False if there was none of that number.
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

    /// The numbers of those whose commands are gone, each once: they are to be killed.
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

impl Pending {
    /// The command that asked.
    pub(super) fn client(&self) -> ClientId {
        self.client
    }
}
