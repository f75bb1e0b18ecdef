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
//! device. The end of the tap stops all.

mod control;
mod header;
mod pair;
mod receive;
mod tap;
#[cfg(test)]
mod tests;
mod transmit;

use std::io;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
};
use vm_memory::GuestMemoryMmap;

use super::queue::{self, BASIC_FEATURES, DeviceQueue};
use super::thread::DeviceThread;
use super::{ActivateError, Activation, Interrupt, VirtioDevice, config};
use pair::Pair;
pub use tap::{MAX_QUEUE_PAIRS, Tap, TapError};

/// The smallest MTU, in bytes (5.1.4.1).
pub const MIN_MTU: u16 = 68;

/// What Linux fills with buffers of 1.5 KiB, so that the longest packet fits some times.
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 16;

/// `struct virtio_net_config` up to the MTU.
const CONFIG_SIZE: usize = 12;

/// The device.
pub struct Net {
    tap: Arc<Tap>,
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
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * pairs];
        if pairs > 1 {
            queue_sizes.push(CONTROL_QUEUE_SIZE);
        }
        Ok(Net {
            tap: Arc::new(tap),
            config,
            queue_sizes,
            threads: Vec::new(),
        })
    }

    /// Starts the threads of the pairs that the driver has set up, and of the control queue.
    fn start(
        &mut self,
        mut queues: Vec<Option<DeviceQueue>>,
        memory: &Arc<GuestMemoryMmap>,
        interrupt: &Arc<dyn Interrupt>,
        features: u64,
    ) -> Result<(), ActivateError> {
        let accepted = |bit: u32| features & 1 << bit != 0;
        let pairs = if accepted(VIRTIO_NET_F_MQ) {
            self.tap.queues().len()
        } else {
            1
        };
        // It comes after the pairs that are negotiated (5.1.2).
        let control = queues.get_mut(2 * pairs).and_then(Option::take);
        let mut started = 0;
        let mut queues = queues.into_iter().take(2 * pairs);
        while let (Some(receive), Some(transmit)) = (queues.next(), queues.next()) {
            let missing = |index: usize| ActivateError::QueueNotReady((2 * started + index) as u16);
            let pair = match (receive, transmit) {
                (Some(receive), Some(transmit)) => [receive, transmit],
                // A driver needn't use more than the first pair.
                _ if started > 0 => break,
                (None, _) => return Err(missing(0)),
                (_, None) => return Err(missing(1)),
            };
            let (tap, memory) = (Arc::clone(&self.tap), Arc::clone(memory));
            let index = started;
            let work = move |stop: &_| match tap.queues().get(index) {
                Some(queue) => Pair::new(queue, pair, &memory, features).run(stop),
                None => Ok(()),
            };
            self.spawn(interrupt, work)?;
            started += 1;
        }
        if let Some(mut queue) = control
            && accepted(VIRTIO_NET_F_CTRL_VQ)
        {
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
        let mut bits = vec![
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_MTU,
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
        if self.tap.has_udp_offloads() {
            bits.extend([
                VIRTIO_NET_F_HOST_USO,
                VIRTIO_NET_F_GUEST_USO4,
                VIRTIO_NET_F_GUEST_USO6,
            ]);
        }
        if self.tap.queues().len() > 1 {
            bits.extend([VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ]);
        }
        bits.iter().fold(BASIC_FEATURES, |all, bit| all | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let features = activation.features;
        let offloads = offloads(features);
        let host = |source| ActivateError::Host {
            what: "telling the host's interface what the driver accepts",
            source,
        };
        self.tap.set_offloads(offloads).map_err(host)?;
        // A new driver begins with one pair (5.1.6.5.5).
        self.tap.use_queues(1).map_err(host)?;
        let queues = queue::start_ready_queues(activation)?;
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
