//! The commands that are connected to the sandbox process. None can hold it up or end it: one
//! that sends nothing, or what isn't in the protocol, is dropped.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, RawFd},
        unix::net::UnixListener,
    },
    time::{Duration, Instant},
};

use nix::poll::PollFlags;

use crate::isolation::vm::{
    control::{Control, ControlError},
    wire::{Answer, Ask},
};

/// How many are connected at a time; others wait. One that stands for a process of the guest
/// stays.
const MAX_CLIENTS: usize = 256;

/// How many things one may ask in one go.
const MAX_ASKS: usize = 64;

/// How long one may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// One of them, for as long as this process lives.
pub(super) type ClientId = u64;

/// The commands, and the socket that they come to.
pub(super) struct Clients {
    listener: UnixListener,
    clients: Vec<Client>,
    next_id: ClientId,
}

struct Client {
    id: ClientId,
    connection: Control,
    /// When it must have said what it wants; `None` once it has.
    deadline: Option<Instant>,
    /// Whether it is told what happens.
    watches: bool,
}

impl Clients {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self {
            listener,
            clients: Vec::new(),
            next_id: 0,
        }
    }

    /// When somebody is to be dropped.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.clients
            .iter()
            .filter_map(|client| client.deadline)
            .min()
    }

    /// Drops those that have said nothing for too long.
    pub(super) fn drop_silent(&mut self) {
        let now = Instant::now();
        self.clients
            .retain(|client| client.deadline.is_none_or(|deadline| now < deadline));
    }

    /// What is to be waited for: the listener, then each client.
    pub(super) fn interests(&self, read: bool) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let when = |flag, wanted| match wanted {
            true => flag,
            false => PollFlags::empty(),
        };
        let accept = when(PollFlags::POLLIN, self.clients.len() < MAX_CLIENTS);
        let mut interests = vec![(self.listener.as_fd(), accept)];
        for Client { connection, .. } in &self.clients {
            // One that doesn't take its answers has nothing more to ask.
            let owes = connection.has_outgoing();
            let flags = when(PollFlags::POLLIN, read && !owes) | when(PollFlags::POLLOUT, owes);
            interests.push((connection.as_fd(), flags));
        }
        interests
    }

    /// Goes on where that is possible, as poll has found for each of the interests. Returns
    /// what is asked.
    pub(super) fn advance(&mut self, found: &[PollFlags]) -> Vec<(ClientId, Ask)> {
        let mut asks = Vec::new();
        let mut of_clients = found.iter().skip(1);
        self.clients.retain_mut(|client| {
            let happened = of_clients.next().is_some_and(|flags| !flags.is_empty());
            !happened || client.advance(&mut asks).is_ok()
        });
        if found.first().is_some_and(|flags| !flags.is_empty()) {
            self.accept();
        }
        asks
    }

    fn accept(&mut self) {
        // It may have gone; and one that isn't taken in for want of memory tries again.
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        let Ok(connection) = Control::new(stream) else {
            return;
        };
        self.clients.push(Client {
            id: self.next_id,
            connection,
            deadline: Some(Instant::now() + PATIENCE),
            watches: false,
        });
        self.next_id += 1;
    }

    /// Answers, if the client is still there.
    pub(super) fn answer(&mut self, id: ClientId, answer: &Answer) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
            return;
        };
        let sent = client.connection.send(answer);
        if sent.and_then(|()| client.connection.flush()).is_err() {
            self.drop(id);
        }
    }

    /// As [`Clients::answer`], with descriptors. Whether the client is still there.
    pub(super) fn answer_with(
        &mut self,
        id: ClientId,
        answer: &Answer,
        descriptors: &[RawFd],
    ) -> bool {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
            return false;
        };
        let sent = client.connection.send_with(answer, descriptors).is_ok();
        if !sent {
            self.drop(id);
        }
        sent
    }

    /// One wants to be told what happens.
    pub(super) fn watch(&mut self, id: ClientId) {
        let client = self.clients.iter_mut().find(|client| client.id == id);
        if let Some(client) = client {
            client.watches = true;
        }
    }

    /// Tells all that want to be told, but for those that haven't taken the last word yet.
    pub(super) fn tell(&mut self, what: &Answer) {
        let hears = |client: &&Client| client.watches && !client.connection.has_outgoing();
        let watching = self.clients.iter().filter(hears);
        let watching: Vec<ClientId> = watching.map(|client| client.id).collect();
        for id in watching {
            self.answer(id, what);
        }
    }

    /// Whether one is still there.
    pub(super) fn has(&self, id: ClientId) -> bool {
        self.clients.iter().any(|client| client.id == id)
    }

    /// Hangs up on all that are there.
    pub(super) fn hang_up(&mut self) {
        self.clients.clear();
    }

    /// Hangs up on one.
    pub(super) fn drop(&mut self, id: ClientId) {
        self.clients.retain(|client| client.id != id);
    }
}

impl Client {
    fn advance(&mut self, asks: &mut Vec<(ClientId, Ask)>) -> Result<(), ControlError> {
        self.connection.flush()?;
        for _ in 0..MAX_ASKS {
            match self.connection.receive()? {
                Some(ask) => {
                    self.deadline = None;
                    asks.push((self.id, ask));
                }
                None => return Ok(()),
            }
        }
        // Nobody has that much to ask.
        Err(ControlError::Closed)
    }
}
