//! A driver and a transport in plain memory, for tests of devices.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::BASIC_FEATURES;
use super::{Activation, ActiveQueue, Interrupt, VirtioDevice};

/// Nothing that a test waits for takes longer, however busy the machine is.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) const MEMORY_SIZE: usize = 16 << 20;

/// Where the rings of queue 0 are; those of the other queues follow.
const RINGS: u64 = 0x1000;
const RINGS_SIZE: u64 = 0x8000;
/// The first byte that tests may use for buffers.
pub(crate) const BUFFERS: u64 = 0x10_0000;

pub(crate) const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub(crate) const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub(crate) const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// A part of a chain: its address, its length and whether the device writes it.
pub(crate) type Part = (u64, u32, bool);

/// An interrupt that records what happens.
#[derive(Default)]
pub(crate) struct Recorder {
    state: Mutex<Recorded>,
    changed: Condvar,
}

#[derive(Default)]
struct Recorded {
    signals: Vec<usize>,
    config_changes: usize,
    failure: Option<String>,
}

impl Interrupt for Recorder {
    fn signal_used(&self, index: u16) {
        let mut state = self.state.lock().unwrap();
        let index = usize::from(index);
        if state.signals.len() <= index {
            state.signals.resize(index + 1, 0);
        }
        state.signals[index] += 1;
        self.changed.notify_all();
    }

    fn signal_config(&self) {
        self.state.lock().unwrap().config_changes += 1;
    }

    fn fail(&self, why: &str) {
        self.state.lock().unwrap().failure = Some(why.to_owned());
        self.changed.notify_all();
    }
}

impl Recorder {
    pub(crate) fn signals(&self, index: usize) -> usize {
        let state = self.state.lock().unwrap();
        state.signals.get(index).copied().unwrap_or(0)
    }

    pub(crate) fn config_changes(&self) -> usize {
        self.state.lock().unwrap().config_changes
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.state.lock().unwrap().failure.clone()
    }

    /// Waits until the device has failed, and returns the reason.
    pub(crate) fn wait_for_failure(&self) -> String {
        let state = self.state.lock().unwrap();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, TIMEOUT, |state| state.failure.is_none())
            .unwrap();
        state.failure.clone().expect("the device goes on")
    }
}

/// The driver's side of a queue.
pub(crate) struct DriverQueue {
    memory: Arc<GuestMemoryMmap>,
    size: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    notify: EventFd,
    next_descriptor: u16,
    next_available: u16,
    next_used: u16,
}

impl DriverQueue {
    pub(crate) fn new(memory: &Arc<GuestMemoryMmap>, index: usize, size: u16) -> DriverQueue {
        let descriptors = RINGS + RINGS_SIZE * index as u64;
        let queue = DriverQueue {
            memory: Arc::clone(memory),
            size,
            descriptors,
            available: descriptors + 0x4000,
            used: descriptors + 0x5000,
            notify: EventFd::new(EFD_NONBLOCK).unwrap(),
            next_descriptor: 0,
            next_available: 0,
            next_used: 0,
        };
        let zeroes = [0; RINGS_SIZE as usize];
        memory
            .write_slice(&zeroes, GuestAddress(descriptors))
            .unwrap();
        queue
    }

    /// Returns where its descriptors, its available ring and its used ring are.
    pub(crate) fn rings(&self) -> [u64; 3] {
        [self.descriptors, self.available, self.used]
    }

    /// Returns the event that `notify` writes.
    pub(crate) fn notification(&self) -> &EventFd {
        &self.notify
    }

    /// Returns the queue that a transport makes of the driver's settings.
    pub(crate) fn active(&self) -> ActiveQueue {
        let mut queue = Queue::new(self.size).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(self.available))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(self.used))
            .unwrap();
        queue.set_ready(true);
        ActiveQueue {
            queue,
            notify: self.notify.try_clone().unwrap(),
        }
    }

    pub(crate) fn write_descriptor(&self, table: u64, index: u16, fields: (u64, u32, u16, u16)) {
        let (address, length, flags, next) = fields;
        let descriptor = Descriptor::new(address, length, flags, next);
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory
            .write_obj(RawDescriptor::from(descriptor), at)
            .unwrap();
    }

    /// Puts a head into the available ring and makes it available.
    pub(crate) fn offer(&mut self, head: u16) {
        let entry = self.available + 4 + 2 * u64::from(self.next_available % self.size);
        self.memory.write_obj(head, GuestAddress(entry)).unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        self.set_available(self.next_available);
    }

    pub(crate) fn set_available(&mut self, index: u16) {
        let at = GuestAddress(self.available + 2);
        self.memory
            .store(index, at, std::sync::atomic::Ordering::SeqCst)
            .unwrap();
    }

    /// Makes a chain available, without notifying. Returns its head.
    pub(crate) fn add(&mut self, parts: &[Part]) -> u16 {
        let head = self.next_descriptor;
        for (index, (address, length, write)) in parts.iter().enumerate() {
            let at = self.next_descriptor;
            self.next_descriptor = (at + 1) % self.size;
            let last = index + 1 == parts.len();
            let flags = if *write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let fields = (*address, *length, flags, self.next_descriptor);
            self.write_descriptor(self.descriptors, at, fields);
        }
        self.offer(head);
        head
    }

    pub(crate) fn notify(&self) {
        self.notify.write(1).unwrap();
    }

    /// Returns whether the device has used all that was made available.
    #[cfg(fuzzing)]
    pub(crate) fn has_used_all(&self) -> bool {
        let load = |ring: u64| {
            let at = GuestAddress(ring + 2);
            let order = std::sync::atomic::Ordering::SeqCst;
            self.memory.load::<u16>(at, order).unwrap()
        };
        load(self.used) == load(self.available)
    }

    /// Takes the next used chain, if there is one: its head and the bytes written.
    pub(crate) fn try_used(&mut self) -> Option<(u16, u32)> {
        let at = GuestAddress(self.used + 2);
        let index: u16 = self
            .memory
            .load(at, std::sync::atomic::Ordering::SeqCst)
            .unwrap();
        if index == self.next_used {
            return None;
        }
        let entry = self.used + 4 + 8 * u64::from(self.next_used % self.size);
        self.next_used = self.next_used.wrapping_add(1);
        let [head, length]: [u32; 2] = self.memory.read_obj(GuestAddress(entry)).unwrap();
        Some((head as u16, length))
    }

    /// Waits for the next used chain.
    pub(crate) fn used(&mut self) -> (u16, u32) {
        wait_for("a used chain", || self.try_used())
    }

    /// Makes a chain available and waits until the device is done with it. Returns how many bytes
    /// it wrote.
    pub(crate) fn run(&mut self, parts: &[Part]) -> u32 {
        let head = self.add(parts);
        self.notify();
        let (used, written) = self.used();
        assert_eq!(used, head);
        written
    }
}

/// Polls for something that another thread does.
pub(crate) fn wait_for<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + TIMEOUT;
    loop {
        if let Some(result) = poll() {
            return result;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// A device, its driver and what connects them.
pub(crate) struct Machine<D: VirtioDevice> {
    pub(crate) device: D,
    pub(crate) memory: Arc<GuestMemoryMmap>,
    pub(crate) queues: Vec<DriverQueue>,
    pub(crate) interrupt: Arc<Recorder>,
    pub(crate) features: u64,
}

impl<D: VirtioDevice> Machine<D> {
    /// Makes a machine whose driver has just activated the device, without asking to suppress
    /// events.
    pub(crate) fn new(device: D) -> Machine<D> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)]).unwrap();
        let mut machine = Machine {
            device,
            memory: Arc::new(memory),
            queues: Vec::new(),
            interrupt: Arc::default(),
            features: BASIC_FEATURES & !(1 << VIRTIO_RING_F_EVENT_IDX),
        };
        machine.activate();
        machine
    }

    /// Sets the queues up again and activates the device.
    pub(crate) fn activate(&mut self) {
        let sizes = self.device.queue_sizes().to_vec();
        let queues = sizes.iter().enumerate();
        self.queues = queues
            .map(|(index, size)| DriverQueue::new(&self.memory, index, *size))
            .collect();
        let activation = self.activation();
        self.device.activate(activation).unwrap();
    }

    pub(crate) fn activation(&self) -> Activation {
        Activation {
            memory: Arc::clone(&self.memory),
            queues: self.queues.iter().map(DriverQueue::active).collect(),
            interrupt: Arc::clone(&self.interrupt) as Arc<dyn Interrupt>,
            features: self.features,
        }
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub(crate) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

/// A way to break a queue: its name, and how a driver does it.
pub(crate) type Breakage = (&'static str, fn(&mut DriverQueue));

/// Rings and chains from which no device can continue.
pub(crate) const BREAKAGES: &[Breakage] = &[
    ("an available index that jumps ahead", |queue| {
        queue.set_available(queue.size + 1);
    }),
    ("a head outside the table", |queue| queue.offer(queue.size)),
    ("a chain that loops", |queue| {
        for (at, next) in [(0, 1), (1, 0)] {
            queue.write_descriptor(queue.descriptors, at, (BUFFERS, 64, NEXT, next));
        }
        queue.offer(0);
    }),
    ("a next descriptor outside the table", |queue| {
        queue.write_descriptor(queue.descriptors, 0, (BUFFERS, 64, NEXT, queue.size));
        queue.offer(0);
    }),
    ("an address outside memory", |queue| {
        queue.add(&[(MEMORY_SIZE as u64, 64, false)]);
    }),
    ("an address at the end of the address space", |queue| {
        queue.add(&[(u64::MAX - 8, 64, true)]);
    }),
    ("a buffer that goes beyond memory", |queue| {
        queue.add(&[(MEMORY_SIZE as u64 - 8, 64, true)]);
    }),
    ("a huge length", |queue| {
        queue.add(&[(BUFFERS, u32::MAX, true)]);
    }),
    ("something to read after something to write", |queue| {
        queue.add(&[(BUFFERS, 64, true), (BUFFERS + 64, 64, false)]);
    }),
    ("an indirect table within an indirect table", |queue| {
        queue.write_descriptor(BUFFERS, 0, (BUFFERS + 0x100, 16, INDIRECT, 0));
        queue.write_descriptor(BUFFERS + 0x100, 0, (BUFFERS + 0x200, 64, 0, 0));
        queue.write_descriptor(queue.descriptors, 0, (BUFFERS, 16, INDIRECT, 0));
        queue.offer(0);
    }),
    ("an indirect table of an odd size", |queue| {
        queue.write_descriptor(BUFFERS, 0, (BUFFERS + 0x200, 64, 0, 0));
        queue.write_descriptor(queue.descriptors, 0, (BUFFERS, 17, INDIRECT, 0));
        queue.offer(0);
    }),
    ("an empty indirect table", |queue| {
        queue.write_descriptor(queue.descriptors, 0, (BUFFERS, 0, INDIRECT, 0));
        queue.offer(0);
    }),
    ("an indirect table outside memory", |queue| {
        queue.write_descriptor(queue.descriptors, 0, (MEMORY_SIZE as u64, 32, INDIRECT, 0));
        queue.offer(0);
    }),
    ("an indirect chain longer than the queue", |queue| {
        let count = queue.size + 1;
        for at in 0..count {
            let flags = if at + 1 < count { NEXT } else { 0 };
            queue.write_descriptor(BUFFERS, at, (BUFFERS + 0x8000, 1, flags, at + 1));
        }
        let length = 16 * u32::from(count);
        queue.write_descriptor(queue.descriptors, 0, (BUFFERS, length, INDIRECT, 0));
        queue.offer(0);
    }),
];

/// Breaks queue `index` of a device in every way, each on a fresh machine: the device must fail
/// with a reason, must stop in time, and must work again after a reset.
pub(crate) fn break_queue<D: VirtioDevice>(
    index: usize,
    new: impl Fn() -> D,
    works: impl Fn(&mut Machine<D>),
) {
    for (what, breakage) in BREAKAGES {
        let mut machine = Machine::new(new());
        breakage(&mut machine.queues[index]);
        machine.queues[index].notify();
        let why = machine.interrupt.wait_for_failure();
        println!("{what}: {why}");
        assert!(!why.contains("bug"), "{what}: {why}");
        machine.device.reset();
        machine.interrupt = Arc::default();
        machine.activate();
        works(&mut machine);
        assert_eq!(machine.interrupt.failure(), None, "after {what}");
    }
}

/// The environment variable with the seed of what is made up. Without it, each run has its own.
pub(crate) const FUZZ_SEED: &str = "NACRE_FUZZ_SEED";

/// Returns the seed of this run.
pub(crate) fn fuzz_seed() -> u64 {
    match std::env::var(FUZZ_SEED) {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => RandomState::new().hash_one(FUZZ_SEED),
    }
}

/// Fills `bytes` with noise that depends on nothing but `seed` (SplitMix64).
pub(crate) fn noise(seed: u64, bytes: &mut [u8]) {
    let mut state = seed;
    for piece in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        piece.copy_from_slice(&word.to_le_bytes()[..piece.len()]);
    }
}
