//! Keeps a running container's network up to date: what changes on the host changes in the guest.

use std::os::fd::{AsFd, BorrowedFd};

use nacre_agent::network::Network;
use nacre_vmm::monitor::Monitor;

use super::{carry::CarriedNetwork, error::NetworkError};

/// A container's network and the machine that it is carried into.
pub(in crate::isolation::vm) struct LiveNetwork<'a> {
    network: &'a mut CarriedNetwork,
    machine: &'a Monitor,
    /// How many changes the guest was told of and hasn't confirmed.
    unconfirmed: usize,
}

impl<'a> LiveNetwork<'a> {
    pub(in crate::isolation::vm) fn new(
        network: &'a mut CarriedNetwork,
        machine: &'a Monitor,
    ) -> Self {
        Self {
            network,
            machine,
            unconfirmed: 0,
        }
    }

    /// Returns what becomes readable when something may have changed; `None` until the guest has
    /// confirmed the last change. So the guest is told no faster than it can follow, even if
    /// somebody changes a network all the time.
    pub(in crate::isolation::vm) fn watched(&self) -> Option<BorrowedFd<'_>> {
        (self.unconfirmed == 0).then(|| self.network.as_fd())
    }

    /// Returns what the guest must be told, if anything.
    pub(in crate::isolation::vm) fn update(&mut self) -> Result<Option<Network>, NetworkError> {
        let network = self.network.update(self.machine)?;
        self.unconfirmed += usize::from(network.is_some());
        Ok(network)
    }

    /// Takes the guest's answer whether it has done what it was told. A device that it may not have
    /// let go of isn't unplugged. Returns whether there may therefore be more to tell it.
    pub(in crate::isolation::vm) fn confirmed(&mut self, is_done: bool) -> bool {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
        if !is_done {
            self.network.tell_again();
        }
        self.unconfirmed == 0 && self.network.unplug_gone(self.machine)
    }
}
