//! The network of a container that is there: what changes on the host changes in the guest.

use std::os::fd::{AsFd, BorrowedFd};

use nacre_agent::network::Network;
use nacre_vmm::RunningVm;

use super::{CarriedNetwork, NetworkError};

/// A container's network and the machine that it is carried into.
pub(in crate::isolation::vm) struct LiveNetwork<'a> {
    network: &'a mut CarriedNetwork,
    machine: &'a RunningVm,
    /// How often the guest was told something that it hasn't confirmed.
    unconfirmed: usize,
}

impl<'a> LiveNetwork<'a> {
    pub(in crate::isolation::vm) fn new(
        network: &'a mut CarriedNetwork,
        machine: &'a RunningVm,
    ) -> Self {
        Self {
            network,
            machine,
            unconfirmed: 0,
        }
    }

    /// What becomes readable when something may have changed; `None` as long as the guest hasn't
    /// confirmed the last change. So whoever changes a network all the time has it told no faster
    /// than the guest follows.
    pub(in crate::isolation::vm) fn watched(&self) -> Option<BorrowedFd<'_>> {
        (self.unconfirmed == 0).then(|| self.network.as_fd())
    }

    /// What the guest must be told now, if anything.
    pub(in crate::isolation::vm) fn update(&mut self) -> Result<Option<Network>, NetworkError> {
        let network = self.network.update(self.machine)?;
        self.unconfirmed += usize::from(network.is_some());
        Ok(network)
    }

    /// The guest has answered whether it has done what it was told. A device that it may not have
    /// let go of isn't unplugged. Gives whether there may be more to tell it by that.
    pub(in crate::isolation::vm) fn confirmed(&mut self, is_done: bool) -> bool {
        self.unconfirmed = self.unconfirmed.saturating_sub(1);
        if !is_done {
            self.network.tell_again();
        }
        self.unconfirmed == 0 && self.network.unplug_gone(self.machine)
    }
}
