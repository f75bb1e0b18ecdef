//! The MMIO transport (virtio 1.3, section 4.2): a page of registers through which a driver
//! negotiates features, sets up queues and receives interrupts.
//!
//! The driver belongs to the guest: no value that it writes is trusted. What the specification
//! forbids a driver to do is ignored, except for a queue that can't work, which makes the device
//! ask for a reset.

mod line;

use std::fmt;
use std::sync::Arc;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::line::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, Line, NEEDS_RESET};
use super::queue::rings_are_in_memory;
use super::{Activation, ActiveQueue, Interrupt, VirtioDevice};

/// The offset of `QueueNotify`.
pub(crate) const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"NACR");
/// The configuration space starts here.
const CONFIG: u64 = 0x100;

/// Why a device can't have a transport.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A queue's size is not a power of two up to 32768, or there are too many queues.
    #[error("the device asks for queues that virtio doesn't allow")]
    Queues,
    /// The host has no event file descriptor for it.
    #[error("creating an event")]
    Event(#[source] std::io::Error),
}

/// A device behind its registers.
pub(crate) struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    line: Arc<Line>,
    queues: Vec<QueueConfig>,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    active: bool,
}

/// A queue as the driver has set it up so far.
struct QueueConfig {
    max_size: u16,
    notify: EventFd,
    size: u32,
    descriptors: u64,
    driver: u64,
    device: u64,
    ready: bool,
}

impl QueueConfig {
    fn reset(&mut self) {
        self.size = self.max_size.into();
        self.descriptors = 0;
        self.driver = 0;
        self.device = 0;
        self.ready = false;
        // A notification from before the reset means nothing after it. There may be none.
        let _ = self.notify.read();
    }

    /// Builds the queue, if it could work: its size is one that the device offers, its rings are
    /// aligned and lie wholly in guest memory.
    fn build(&self, memory: &GuestMemoryMmap) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        queue
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .ok()?;
        queue
            .try_set_avail_ring_address(GuestAddress(self.driver))
            .ok()?;
        queue
            .try_set_used_ring_address(GuestAddress(self.device))
            .ok()?;
        queue.set_ready(true);
        rings_are_in_memory(&queue, memory).then_some(queue)
    }
}

impl MmioTransport {
    /// Puts `device` behind registers.
    pub(crate) fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<GuestMemoryMmap>,
    ) -> Result<MmioTransport, TransportError> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(TransportError::Event);
        let mut queues = Vec::new();
        for &max_size in device.queue_sizes() {
            Queue::new(max_size).map_err(|_| TransportError::Queues)?;
            let mut queue = QueueConfig {
                max_size,
                notify: event()?,
                size: 0,
                descriptors: 0,
                driver: 0,
                device: 0,
                ready: false,
            };
            queue.reset();
            queues.push(queue);
        }
        if u16::try_from(queues.len()).is_err() {
            return Err(TransportError::Queues);
        }
        let line = Arc::new(Line::new(device.device_type(), event()?));
        Ok(MmioTransport {
            device,
            memory,
            line,
            queues,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            active: false,
        })
    }

    /// Returns the event that raises the device's interrupt.
    pub(crate) fn irq(&self) -> &EventFd {
        self.line.irq()
    }

    /// Returns the event for each queue's notifications, in the order of the queues.
    pub(crate) fn notify_events(&self) -> impl Iterator<Item = &EventFd> {
        self.queues.iter().map(|queue| &queue.notify)
    }

    /// Handles the driver's read of `data` from `offset`.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG {
            self.device.read_config(offset - CONFIG, data);
        } else if offset.is_multiple_of(4) && data.len() == 4 {
            data.copy_from_slice(&self.register(offset).to_le_bytes());
        }
    }

    fn register(&self, offset: u64) -> u32 {
        let queue = self.queues.get(self.queue_select as usize);
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.device.device_type(),
            0x00c => VENDOR,
            0x010 => word(self.device.features(), self.device_features_select),
            // A queue that doesn't exist has size 0.
            0x034 => queue.map_or(0, |queue| queue.max_size.into()),
            0x044 => queue.map_or(0, |queue| queue.ready.into()),
            0x060 => self.line.interrupt_status(),
            0x070 => self.line.status(),
            // Shared memory regions: there are none, which is indicated by a length and a base of
            // all ones.
            0x0b0..=0x0bc => u32::MAX,
            0x0fc => self.line.generation(),
            _ => 0,
        }
    }

    /// Handles the driver's write of `data` to `offset`.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            if self.line.status() & DRIVER != 0 {
                self.device.write_config(offset - CONFIG, data);
            }
        } else if let (true, Ok(value)) = (offset.is_multiple_of(4), data.try_into()) {
            self.set_register(offset, u32::from_le_bytes(value));
        }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x014 => self.device_features_select = value,
            0x020 => self.accept_features(value),
            0x024 => self.driver_features_select = value,
            0x030 => self.queue_select = value,
            0x044 => self.set_queue_ready(value),
            QUEUE_NOTIFY => self.notify(value),
            0x064 => self.line.acknowledge(value),
            0x070 => self.set_status(value),
            0x038 => self.configure_queue(|queue| queue.size = value),
            0x080 => self.configure_queue(|queue| set_low(&mut queue.descriptors, value)),
            0x084 => self.configure_queue(|queue| set_high(&mut queue.descriptors, value)),
            0x090 => self.configure_queue(|queue| set_low(&mut queue.driver, value)),
            0x094 => self.configure_queue(|queue| set_high(&mut queue.driver, value)),
            0x0a0 => self.configure_queue(|queue| set_low(&mut queue.device, value)),
            0x0a4 => self.configure_queue(|queue| set_high(&mut queue.device, value)),
            _ => {}
        }
    }

    /// Accepts features, which is allowed after the driver has announced itself and before it
    /// settles them.
    fn accept_features(&mut self, value: u32) {
        if self.line.status() & (DRIVER | FEATURES_OK) != DRIVER {
            return;
        }
        match self.driver_features_select {
            0 => set_low(&mut self.driver_features, value),
            1 => set_high(&mut self.driver_features, value),
            // None of our features are there: a driver that wants one can't have it.
            _ if value != 0 => self
                .line
                .fail("the driver accepts features that don't exist"),
            _ => {}
        }
    }

    /// Returns whether queues may be set up: between `FEATURES_OK` and `DRIVER_OK`.
    fn configurable(&self) -> bool {
        self.line.status() & (FEATURES_OK | DRIVER_OK | FAILED | NEEDS_RESET) == FEATURES_OK
    }

    fn configure_queue(&mut self, change: impl FnOnce(&mut QueueConfig)) {
        if !self.configurable() {
            return;
        }
        if let Some(queue) = self.queues.get_mut(self.queue_select as usize)
            && !queue.ready
        {
            change(queue);
        }
    }

    fn set_queue_ready(&mut self, value: u32) {
        if !self.configurable() {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else {
            return;
        };
        match value {
            0 => queue.ready = false,
            1 if queue.build(&self.memory).is_some() => queue.ready = true,
            1 => {
                let why = format!("queue {} can't work as it was set up", self.queue_select);
                self.line.fail(&why);
            }
            _ => {}
        }
    }

    /// Handles a notification that KVM didn't turn into an event by itself.
    fn notify(&self, index: u32) {
        if self.active
            && let Some(queue) = self.queues.get(index as usize)
        {
            // Fails only if one is already pending.
            let _ = queue.notify.write(1);
        }
    }

    /// Section 3.1.1: the driver sets one bit after the other, and clears bits only by a reset.
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let status = self.line.status();
        if status & !NEEDS_RESET & !value != 0 {
            return;
        }
        if value & FAILED != 0 {
            self.line.add_status(FAILED);
            return;
        }
        let steps = [
            (ACKNOWLEDGE, 0),
            (DRIVER, ACKNOWLEDGE),
            (FEATURES_OK, DRIVER),
            (DRIVER_OK, FEATURES_OK),
        ];
        for (step, before) in steps {
            let status = self.line.status();
            let due = value & step != 0 && status & step == 0;
            if !due || status & before != before || status & (FAILED | NEEDS_RESET) != 0 {
                continue;
            }
            // The bit stays clear if the device doesn't accept the features.
            if step == FEATURES_OK && !self.features_agreed() {
                continue;
            }
            self.line.add_status(step);
            if step == DRIVER_OK {
                self.activate();
            }
        }
    }

    fn features_agreed(&self) -> bool {
        let version_1 = 1 << VIRTIO_F_VERSION_1;
        self.driver_features & !self.device.features() == 0
            && self.driver_features & version_1 == version_1
    }

    fn activate(&mut self) {
        let event_index = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for config in &self.queues {
            let queue = if config.ready {
                config.build(&self.memory)
            } else {
                Queue::new(config.max_size).ok()
            };
            // A ready queue was built once before, and a queue's size was checked at the start.
            let (Some(mut queue), Ok(notify)) = (queue, config.notify.try_clone()) else {
                self.line.fail("a queue's event can't be duplicated");
                return;
            };
            queue.set_event_idx(event_index);
            queues.push(ActiveQueue { queue, notify });
        }
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues,
            interrupt: Arc::clone(&self.line) as Arc<dyn Interrupt>,
            features: self.driver_features,
        };
        match self.device.activate(activation) {
            Ok(()) => self.active = true,
            Err(error) => self.line.fail(&error.to_string()),
        }
    }

    /// Stops the device and returns it to its initial state (section 2.4). Also called when the
    /// machine ends.
    pub(crate) fn reset(&mut self) {
        // A device that failed at the start or later may still have something to forget.
        if self.line.status() & DRIVER_OK != 0 {
            self.device.reset();
        }
        self.active = false;
        for queue in &mut self.queues {
            queue.reset();
        }
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        self.line.reset();
    }
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device.device_type())
            .field("status", &self.line.status())
            .finish_non_exhaustive()
    }
}

/// Handles the driver's read of `data` from `offset` of a place without a device: the device's type
/// is 0 there, at which a driver stops silently (section 4.2.3.1.1).
pub(crate) fn read_placeholder(offset: u64, data: &mut [u8]) {
    data.fill(0);
    if data.len() == 4 {
        let value = match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }
}

/// Returns the 32 bits of `value` that `select` names.
fn word(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_low(target: &mut u64, value: u32) {
    *target = *target & !0xffff_ffff | u64::from(value);
}

fn set_high(target: &mut u64, value: u32) {
    *target = *target & 0xffff_ffff | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
