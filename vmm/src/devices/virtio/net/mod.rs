//! The network device (virtio 1.3, section 5.1) on a tap of the host.
//!
//! Each pair of queues has a thread and a queue of the tap. Packets go straight between the
//! tap and guest memory, whole or, where both sides know of segmentation and checksum
//! offload, up to 64 KiB of them at a time. What the guest sends waits in its queue while the
//! host has no room for it, and what comes while the guest has none waits in the tap, which
//! drops what is beyond its queue's length. Neither side is looked at again before it has
//! something.
//!
//! Everything that comes to the tap is the guest's: there are no filters and no commands to set
//! them (5.1.6.5.1 to 3), without which a driver such as Linux's takes what comes. UDP
//! fragmentation (UFO) isn't offered, since kernels haven't done it since 2017; datagrams that
//! are segmented (USO) are, where the host's kernel can.
//!
//! What a guest can make the host allocate: for each pair of queues a spill of 64 KiB and what
//! describes the chains that one packet may need, some 100 KiB; and what it sends for as long
//! as it is on its way through the host's kernel, whose queues have bounds.
//!
//! A queue that breaks stops with its pair; the others go on until the driver resets the
//! device. When the tap goes away what the guest sends is dropped, and nothing comes. The link is
//! down then, which the driver learns from a transport that shows it this configuration: vhost-user
//! doesn't.
//!
//! A transport that keeps the control queue for itself, as vhost-user's front end does, uses as
//! many pairs as it has set up.

mod control;
mod header;
mod pair;
mod receive;
mod slot;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;

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

use super::queue::{self, BASIC_FEATURES, DeviceQueue};
use super::thread::DeviceThread;
use super::{ActivateError, Activation, Interrupt, VirtioDevice, config};
use pair::{Failure, Pair};
pub(crate) use slot::NetSlot;
pub use tap::{MAX_QUEUE_PAIRS, Tap, TapError};

/// The smallest MTU, in bytes (5.1.4.1).
pub const MIN_MTU: u16 = 68;

/// What Linux fills with buffers of 1.5 KiB, so that the longest packet fits some times.
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 16;

/// `struct virtio_net_config` up to the MTU, and its status.
const CONFIG_SIZE: usize = 12;
const STATUS: std::ops::Range<usize> = 6..8;

/// What every device offers that isn't its tap's to say.
const FEATURES: [u32; 12] = [
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
const SEVERAL_PAIRS: [u32; 2] = [VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ];

/// `all` with `bits`.
fn with(all: u64, bits: &[u32]) -> u64 {
    bits.iter().fold(all, |all, bit| all | 1 << bit)
}

/// The queues of a device with so many pairs.
fn queue_sizes(pairs: usize) -> Vec<u16> {
    let mut sizes = vec![QUEUE_SIZE; 2 * pairs];
    if pairs > 1 {
        sizes.push(CONTROL_QUEUE_SIZE);
    }
    sizes
}

/// How many pairs of queues a device has in a machine of `vcpus`: one for each, up to
/// [`MAX_QUEUE_PAIRS`]. Its tap is opened with as many queues.
pub fn queue_pairs(vcpus: u8) -> usize {
    usize::from(vcpus).clamp(1, MAX_QUEUE_PAIRS)
}

/// The device.
pub struct Net {
    tap: Arc<Tap>,
    /// Whether the tap has gone away.
    gone: Arc<AtomicBool>,
    config: [u8; CONFIG_SIZE],
    queue_sizes: Vec<u16>,
    threads: Vec<DeviceThread>,
}

impl Net {
    /// A device whose other end is `tap`, with as many pairs of queues as that has queues. The
    /// driver is told its address `mac` and its MTU, in bytes without the Ethernet header.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `mac` is no address of a single station, or if `mtu` is below
    /// [`MIN_MTU`].
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
            threads: Vec::new(),
        })
    }

    /// How many pairs of queues it has.
    pub fn pairs(&self) -> usize {
        self.tap.queues().len()
    }

    /// Has the host use the first `pairs` queues of the tap as the driver wants them. If the tap
    /// is gone, that is for the pairs to find out.
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
            let work = move |stop: &_| {
                let Some(queue) = tap.queues().get(index) else {
                    return Ok(());
                };
                let mut pair = Pair::new(queue, queues, &memory, features);
                let ended = match tap.is_gone() {
                    true => Err(Failure::Gone),
                    false => pair.run(stop),
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
        work: impl FnOnce(&super::thread::Stop) -> Result<(), pair::Failure> + Send + 'static,
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
    /// Of a device of `pairs` pairs, whose driver accepted `features`.
    fn sort(
        mut queues: Vec<Option<DeviceQueue>>,
        features: u64,
        pairs: usize,
    ) -> Result<Queues, ActivateError> {
        let accepted = |bit: u32| features & 1 << bit != 0;
        let pairs = if accepted(VIRTIO_NET_F_MQ) { pairs } else { 1 };
        // It comes after the pairs that are negotiated (5.1.2).
        let control = queues.get_mut(2 * pairs).and_then(Option::take);
        let mut sorted = Queues {
            pairs: Vec::with_capacity(pairs),
            control: control.filter(|_| accepted(VIRTIO_NET_F_CTRL_VQ)),
        };
        let mut queues = queues.into_iter().take(2 * pairs);
        while let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) {
            match (receive, transmit) {
                (Some(receive), Some(transmit)) => sorted.pairs.push([receive, transmit]),
                // A driver needn't use more than the first pair.
                _ if !sorted.pairs.is_empty() => break,
                (None, _) => return Err(ActivateError::QueueNotReady(0)),
                (_, None) => return Err(ActivateError::QueueNotReady(1)),
            }
        }
        Ok(sorted)
    }
}

/// What the tap may leave undone to packets for a driver that accepted `features`: `TUN_F_*`.
fn offloads(features: u64) -> u32 {
    let accepted = |bit: u32| features & 1 << bit != 0;
    // All the others need it (5.1.3.1).
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
    // The kernel knows them only together.
    if accepted(VIRTIO_NET_F_GUEST_USO4) && accepted(VIRTIO_NET_F_GUEST_USO6) {
        offloads |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
    }
    offloads
}
