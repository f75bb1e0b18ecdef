//! The device: its features and configuration, and the threads of its queues.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use vm_memory::GuestMemoryMmap;

use super::control;
use super::pair::Pair;
use super::tap::{MAX_QUEUE_PAIRS, Tap};
use super::turn::Failure;
use crate::devices::virtio::queue::{self, BASIC_FEATURES, DeviceQueue};
use crate::devices::virtio::thread::{DeviceThread, Stop};
use crate::devices::virtio::throttle::Throttle;
use crate::devices::virtio::{ActivateError, Activation, Interrupt, VirtioDevice, config};

/// The smallest MTU, in bytes (5.1.4.1).
pub const MIN_MTU: u16 = 68;

/// Linux fills this many with buffers of 1.5 KiB, so there is room for the longest packet several
/// times.
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 16;

/// `struct virtio_net_config` up to the MTU, and its status.
const CONFIG_SIZE: usize = 12;
const STATUS: std::ops::Range<usize> = 6..8;

/// The features that every device offers, whatever its tap can do.
pub(super) const FEATURES: [u32; 12] = [
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
];
const UDP_FEATURES: [u32; 3] = [
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6,
];
pub(super) const SEVERAL_PAIRS: [u32; 2] = [VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ];

/// Returns `all` together with `bits`.
pub(super) fn with(all: u64, bits: &[u32]) -> u64 {
    bits.iter().fold(all, |all, bit| all | 1 << bit)
}

/// Returns the queues of a device with that many pairs.
pub(super) fn queue_sizes(pairs: usize) -> Vec<u16> {
    let mut sizes = vec![QUEUE_SIZE; 2 * pairs];
    if pairs > 1 {
        sizes.push(CONTROL_QUEUE_SIZE);
    }
    sizes
}

/// Returns how many pairs of queues a device has in a machine of `vcpus`: one for each vCPU, up to
/// [`MAX_QUEUE_PAIRS`]. Its tap is opened with as many queues.
pub fn queue_pairs(vcpus: u8) -> usize {
    usize::from(vcpus).clamp(1, MAX_QUEUE_PAIRS)
}

/// The network device.
pub struct Net {
    tap: Arc<Tap>,
    /// Whether the tap has gone away.
    gone: Arc<AtomicBool>,
    config: [u8; CONFIG_SIZE],
    queue_sizes: Vec<u16>,
    /// What the guest may receive and send.
    throttles: [Throttle; 2],
    threads: Vec<DeviceThread>,
}

impl Net {
    /// Makes a device whose other end is `tap`, with as many pairs of queues as the tap has queues.
    /// The driver is told its address `mac` and its MTU, in bytes without the Ethernet header.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `mac` isn't a unicast address, or if `mtu` is below [`MIN_MTU`].
    pub fn new(tap: Tap, mac: [u8; 6], mtu: u16) -> io::Result<Net> {
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(invalid("the MAC address is not that of one interface"));
        }
        if mtu < MIN_MTU {
            return Err(invalid("the MTU is below 68"));
        }
        let pairs = tap.queues().len();
        let mut config = [0; CONFIG_SIZE];
        config[..6].copy_from_slice(&mac);
        config[8..10].copy_from_slice(&(pairs as u16).to_le_bytes());
        config[10..].copy_from_slice(&mtu.to_le_bytes());
        Ok(Net {
            tap: Arc::new(tap),
            gone: Arc::default(),
            config,
            queue_sizes: queue_sizes(pairs),
            throttles: Default::default(),
            threads: Vec::new(),
        })
    }

    /// Limits what the guest receives and what it sends. What arrives beyond that waits in the tap,
    /// which drops what exceeds its queue's length.
    pub fn with_throttles(self, received: Throttle, sent: Throttle) -> Net {
        Net {
            throttles: [received, sent],
            ..self
        }
    }

    /// Returns how many pairs of queues it has.
    pub fn pairs(&self) -> usize {
        self.tap.queues().len()
    }

    /// Has the host use the first `pairs` queues of the tap, with the offloads that the driver
    /// wants. If the tap is gone, the pairs find that out.
    fn set_up_tap(&self, features: u64, pairs: usize) -> Result<(), ActivateError> {
        let set = self.tap.set_offloads(offloads(features));
        let set = set.and_then(|()| self.tap.use_queues(pairs));
        match set {
            Err(source) if !self.tap.is_gone() => Err(ActivateError::Host {
                what: "telling the host's interface what the driver accepts",
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Starts the threads of the pairs that the driver has set up, and of the control queue.
    fn start(
        &mut self,
        queues: Queues,
        memory: &Arc<GuestMemoryMmap>,
        interrupt: &Arc<dyn Interrupt>,
        features: u64,
    ) -> Result<(), ActivateError> {
        let started = queues.pairs.len();
        for (index, queues) in queues.pairs.into_iter().enumerate() {
            let (tap, memory) = (Arc::clone(&self.tap), Arc::clone(memory));
            let (gone, config) = (Arc::clone(&self.gone), Arc::clone(interrupt));
            let timers = |source| ActivateError::Host {
                what: "making a timer for the network's limit",
                source,
            };
            let [received, sent] = &self.throttles;
            let brakes = [
                received.brake().map_err(timers)?,
                sent.brake().map_err(timers)?,
            ];
            let work = move |stop: &_| {
                let Some(queue) = tap.queues().get(index) else {
                    return Ok(());
                };
                let pair = Pair::new(queue, queues, &memory, features);
                let mut pair = pair.with_brakes(brakes);
                let ended = if tap.is_gone() {
                    Err(Failure::Gone)
                } else {
                    pair.run(stop)
                };
                match ended {
                    Err(Failure::Gone) => {
                        if !gone.swap(true, Ordering::AcqRel) {
                            config.signal_config();
                        }
                        pair.discard(stop)
                    }
                    ended => ended,
                }
            };
            self.spawn(interrupt, work)?;
        }
        if let Some(mut queue) = queues.control {
            let (tap, memory) = (Arc::clone(&self.tap), Arc::clone(memory));
            let work = move |stop: &_| control::run(&mut queue, &memory, &tap, started, stop);
            self.spawn(interrupt, work)?;
        }
        Ok(())
    }

    fn spawn(
        &mut self,
        interrupt: &Arc<dyn Interrupt>,
        work: impl FnOnce(&Stop) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), ActivateError> {
        let name = format!("net {}", self.tap.name());
        let thread = DeviceThread::spawn(&name, Arc::clone(interrupt), work)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        let mut features = with(BASIC_FEATURES, &FEATURES);
        if self.tap.has_udp_offloads() {
            features = with(features, &UDP_FEATURES);
        }
        if self.pairs() > 1 {
            features = with(features, &SEVERAL_PAIRS);
        }
        features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = self.config;
        if !self.gone.load(Ordering::Acquire) {
            config[STATUS].copy_from_slice(&(VIRTIO_NET_S_LINK_UP as u16).to_le_bytes());
        }
        config::read(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let features = activation.features;
        let queues = queue::start_ready_queues(activation)?;
        let queues = Queues::sort(queues, features, self.pairs())?;
        // A driver with a control queue begins with one pair (5.1.6.5.5).
        let used = match queues.control {
            Some(_) => 1,
            None => queues.pairs.len(),
        };
        self.set_up_tap(features, used)?;
        let started = self.start(queues, &memory, &interrupt, features);
        if started.is_err() {
            self.threads.clear();
        }
        started
    }

    fn reset(&mut self) {
        self.threads.clear();
    }
}

/// The queues that the driver has set up.
struct Queues {
    pairs: Vec<[DeviceQueue; 2]>,
    control: Option<DeviceQueue>,
}

impl Queues {
    /// Sorts the queues of a device with `pairs` pairs, whose driver accepted `features`.
    fn sort(
        mut queues: Vec<Option<DeviceQueue>>,
        features: u64,
        pairs: usize,
    ) -> Result<Queues, ActivateError> {
        let accepted = |bit: u32| features & 1 << bit != 0;
        let pairs = if accepted(VIRTIO_NET_F_MQ) { pairs } else { 1 };
        // It comes after the negotiated pairs (5.1.2).
        let control = queues.get_mut(2 * pairs).and_then(Option::take);
        let mut sorted = Queues {
            pairs: Vec::with_capacity(pairs),
            control: control.filter(|_| accepted(VIRTIO_NET_F_CTRL_VQ)),
        };
        let mut queues = queues.into_iter().take(2 * pairs);
        while let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) {
            match (receive, transmit) {
                (Some(receive), Some(transmit)) => sorted.pairs.push([receive, transmit]),
                // A driver need not use more than the first pair.
                _ if !sorted.pairs.is_empty() => break,
                (None, _) => return Err(ActivateError::QueueNotReady(0)),
                (_, None) => return Err(ActivateError::QueueNotReady(1)),
            }
        }
        Ok(sorted)
    }
}

/// Returns what the tap need not do to packets for a driver that accepted `features`: `TUN_F_*`.
fn offloads(features: u64) -> u32 {
    let accepted = |bit: u32| features & 1 << bit != 0;
    // All the others require it (5.1.3.1).
    if !accepted(VIRTIO_NET_F_GUEST_CSUM) {
        return 0;
    }
    let mut offloads = libc::TUN_F_CSUM;
    let (tso4, tso6) = (VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6);
    if accepted(tso4) {
        offloads |= libc::TUN_F_TSO4;
    }
    if accepted(tso6) {
        offloads |= libc::TUN_F_TSO6;
    }
    if accepted(VIRTIO_NET_F_GUEST_ECN) && (accepted(tso4) || accepted(tso6)) {
        offloads |= libc::TUN_F_TSO_ECN;
    }
    // The kernel supports them only together.
    if accepted(VIRTIO_NET_F_GUEST_USO4) && accepted(VIRTIO_NET_F_GUEST_USO6) {
        offloads |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
    }
    offloads
}

#[cfg(test)]
mod tests;
