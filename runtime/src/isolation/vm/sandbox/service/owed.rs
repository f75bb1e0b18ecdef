//! Who is waiting for the agent's reply.

use crate::isolation::vm::sandbox::{clients::ClientId, executed::PendingProcess};

use super::clock::Question;

/// Who is waiting for the agent's reply.
pub(super) enum Owed {
    /// Nobody: the reply to a signal that this process got concerns no client.
    Nobody,
    Start(ClientId),
    Client(ClientId),
    /// A signal.
    Signal(ClientId),
    /// Changed limits, with the container's limit on memory if that is one of them.
    Update(ClientId, Option<i64>),
    Exec(PendingProcess),
    /// The request to forget files.
    Forgetting,
    /// A change of the network; the container that this client starts waits for it.
    Network(Option<ClientId>),
    /// The question what the guest's clock shows.
    Clock(Question),
}

impl Owed {
    /// Returns the client that waits for the reply without also waiting for something that the
    /// workload does first.
    pub(super) fn waits(&self) -> Option<ClientId> {
        match self {
            Self::Client(client) | Self::Signal(client) | Self::Update(client, _) => Some(*client),
            Self::Exec(pending) => Some(pending.client()),
            Self::Nobody
            | Self::Start(_)
            | Self::Forgetting
            | Self::Network(_)
            | Self::Clock(_) => None,
        }
    }
}
