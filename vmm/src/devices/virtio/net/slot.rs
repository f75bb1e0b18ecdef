//! The place of a network device, for a transport to which no device can be added later: a device
//! that is there from the start, and works once there is a tap for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use super::device::{FEATURES, Net, SEVERAL_PAIRS, queue_sizes, with};
use crate::devices::virtio::queue::BASIC_FEATURES;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice};

/// The place. A clone of it refers to the same place.
///
/// It offers what every network device offers. While it is empty, what the guest sends stays in its
/// queues.
#[derive(Clone)]
pub(crate) struct NetSlot {
    state: Arc<Mutex<State>>,
    queue_sizes: Arc<[u16]>,
}

#[derive(Default)]
struct State {
    net: Option<Net>,
    /// What the driver set up while there was no device.
    waiting: Option<Activation>,
}

impl NetSlot {
    /// Makes an empty place for a device with that many pairs of queues.
    pub(crate) fn new(pairs: usize) -> NetSlot {
        NetSlot {
            state: Arc::default(),
            queue_sizes: queue_sizes(pairs).into(),
        }
    }

    /// Puts a device there, which works at once if the driver is ready. Returns it if there is one
    /// already.
    ///
    /// # Errors
    ///
    /// If it can't work with what the driver has set up; the place stays empty, and unusable until
    /// the driver resets it.
    pub(crate) fn fill(&self, mut net: Net) -> Result<Option<Net>, ActivateError> {
        let mut state = self.state();
        if state.net.is_some() {
            return Ok(Some(net));
        }
        if let Some(activation) = state.waiting.take() {
            net.activate(activation)?;
        }
        state.net = Some(net);
        Ok(None)
    }

    /// Takes the device away, if there is one, and with it what the driver has set up: the next
    /// device works after a reset.
    pub(crate) fn clear(&self) {
        // Locked until its threads have ended: a driver that resets the device in the meantime
        // waits, and nobody writes to its memory after that.
        let mut state = self.state();
        state.net = None;
    }

    /// Returns `Some` if somebody has the state locked, or has taken the device away.
    #[cfg(test)]
    pub(super) fn is_being_changed(&self) -> Option<()> {
        let state = self.state.try_lock();
        state
            .map_or(true, |state| state.net.is_none())
            .then_some(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtioDevice for NetSlot {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        let features = with(BASIC_FEATURES, &FEATURES);
        match self.queue_sizes.len() {
            2 => features,
            _ => with(features, &SEVERAL_PAIRS),
        }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// QEMU doesn't ask: it has its own address, status and MTU.
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut state = self.state();
        match &mut state.net {
            Some(net) => net.activate(activation),
            None => {
                state.waiting = Some(activation);
                Ok(())
            }
        }
    }

    fn reset(&mut self) {
        let mut state = self.state();
        state.waiting = None;
        if let Some(net) = &mut state.net {
            net.reset();
        }
    }
}
