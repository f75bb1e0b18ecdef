//! The commands that are connected to the sandbox process. None can hold it up or end it: one that
//! sends nothing, or something that isn't in the protocol, is dropped.

use std::{
    os::{
        fd::{AsFd, RawFd},
        unix::net::UnixListener,
    },
    time::{Duration, Instant},
};

use nix::poll::PollFlags;

use crate::isolation::{
    vm::{
        control::{Control, ControlError},
        wire::{Answer, Ask},
    },
    wait::{Events, Interest},
};

/// How many clients can be connected at a time; others wait. One that stands for a process of the
/// guest stays connected.
const MAX_CLIENTS: usize = 256;

/// How many requests one client may send at once.
const MAX_ASKS: usize = 64;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client's number, unique for as long as this process lives.
pub(super) type ClientId = u64;

/// Where something can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// The socket that clients connect to.
    Listener,
    Client(ClientId),
}

/// The connected commands, and the socket that they connect to.
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
    /// Whether it is told of events.
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

    /// When the next silent client is to be dropped.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.clients
            .iter()
            .filter_map(|client| client.deadline)
            .min()
    }

    /// Drops the clients that have said nothing for too long.
    pub(super) fn drop_silent(&mut self) {
        let now = Instant::now();
        self.clients
            .retain(|client| client.deadline.is_none_or(|deadline| now < deadline));
    }

    /// What to wait for; with `reads`, also for what clients ask.
    pub(super) fn interests(&self, reads: bool) -> Vec<Interest<'_, Endpoint>> {
        let when = |flag, wanted| {
            if wanted { flag } else { PollFlags::empty() }
        };
        let accept = when(PollFlags::POLLIN, self.clients.len() < MAX_CLIENTS);
        let listener = Interest::new(Endpoint::Listener, self.listener.as_fd(), accept);
        let mut interests = vec![listener];
        for Client { id, connection, .. } in &self.clients {
            // A client that doesn't take its answers has nothing more to ask.
            let owes = connection.has_outgoing();
            let flags = when(PollFlags::POLLIN, reads && !owes) | when(PollFlags::POLLOUT, owes);
            let client = Endpoint::Client(*id);
            interests.push(Interest::new(client, connection.as_fd(), flags));
        }
        interests
    }

    /// Makes what progress is possible after these events. Returns what the clients ask.
    pub(super) fn advance(&mut self, events: &Events<Endpoint>) -> Vec<(ClientId, Ask)> {
        let mut asks = Vec::new();
        self.clients.retain_mut(|client| {
            let has_news = events.has(Endpoint::Client(client.id));
            !has_news || client.advance(&mut asks).is_ok()
        });
        if events.has(Endpoint::Listener) {
            self.accept();
        }
        asks
    }

    fn accept(&mut self) {
        // The client may have gone; and one that isn't accepted for lack of memory tries again.
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

    /// Sends an answer, if the client is still there.
    pub(super) fn answer(&mut self, id: ClientId, answer: &Answer) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
            return;
        };
        let sent = client.connection.send(answer);
        if sent.and_then(|()| client.connection.flush()).is_err() {
            self.drop(id);
        }
    }

    /// As [`Clients::answer`], with descriptors. Returns whether the client is still there.
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

    /// Marks a client as one that wants to be told of events.
    pub(super) fn watch(&mut self, id: ClientId) {
        let client = self.clients.iter_mut().find(|client| client.id == id);
        if let Some(client) = client {
            client.watches = true;
        }
    }

    /// Tells all clients that watch, except those that haven't taken the last message yet.
    pub(super) fn tell(&mut self, what: &Answer) {
        let hears = |client: &&Client| client.watches && !client.connection.has_outgoing();
        let watching = self.clients.iter().filter(hears);
        let watching: Vec<ClientId> = watching.map(|client| client.id).collect();
        for id in watching {
            self.answer(id, what);
        }
    }

    /// Whether a client is still there.
    pub(super) fn has(&self, id: ClientId) -> bool {
        self.clients.iter().any(|client| client.id == id)
    }

    /// Hangs up on all clients.
    pub(super) fn hang_up(&mut self) {
        self.clients.clear();
    }

    /// Hangs up on one client.
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
