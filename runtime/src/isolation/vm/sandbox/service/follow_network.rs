//! Tells the guest of changes to the container's network.

use nacre_agent::{
    network::Network,
    protocol::{self, Failure},
};

use crate::{
    isolation::vm::{
        error::VmError,
        network::{LiveNetwork, NetworkError},
        sandbox::{
            clients::ClientId,
            session::{Machine, network_request},
        },
        wire::Answer,
    },
    log::chain,
};

use super::{clock::Why, owed::Owed, serve::Service};

impl<M: Machine> Service<'_, M> {
    /// Tells the guest what has changed in the network on the host.
    pub(super) fn follow_network(&mut self) -> Result<(), VmError> {
        loop {
            let update = self.network.as_mut().map(LiveNetwork::update);
            match update.unwrap_or(Ok(None)) {
                Ok(Some(network)) => return self.tell_network(network, None),
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.warn_of_network(&chain(&error));
                    // An interface is refused once; other changes are passed on all the same.
                    if let NetworkError::Namespace { .. } = error {
                        return Ok(());
                    }
                }
            }
        }
    }

    pub(super) fn tell_network(
        &mut self,
        network: Network,
        starts: Option<ClientId>,
    ) -> Result<(), VmError> {
        let request = network_request(&self.session.id, network);
        self.request(&request, Owed::Network(starts))
    }

    pub(super) fn network_told(
        &mut self,
        starts: Option<ClientId>,
        result: Result<protocol::Answer, Failure>,
    ) -> Result<(), VmError> {
        let network = self.network.as_mut();
        if network.is_some_and(|network| network.confirmed(result.is_ok())) {
            self.follow_network()?;
        }
        match (starts, result) {
            (Some(client), Ok(_)) => self.look_at_clock(Why::Start(client)),
            (Some(client), Err(failure)) => {
                self.is_starting = false;
                self.clients.answer(client, &Answer::Failed(failure));
                Ok(())
            }
            (None, Ok(_)) => Ok(()),
            (None, Err(failure)) => {
                self.warn_of_network(&failure.message);
                Ok(())
            }
        }
    }

    /// Logs a warning: nobody waits for what is added after the container's start.
    fn warn_of_network(&self, message: &str) {
        tracing::warn!("container {}: {message}", self.session.id);
    }
}
