//! Bytes as a script of what a driver does to its rings and its memory.

use std::time::{Duration, Instant};

use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::testing::{BUFFERS, DriverQueue, MEMORY_SIZE, Machine};

/// How long a device may take until it has done what it was given, or has given up.
const PATIENCE: Duration = Duration::from_millis(4);

/// Most parts of a chain that is made in one step.
const MAX_PARTS: u8 = 8;

/// How far from [`BUFFERS`] on a script writes.
const WRITTEN: usize = (0xffff << 4) + 0x100;

/// Bytes that are used up from the front; zeroes come after them.
pub(super) struct Script<'s>(&'s [u8]);

impl<'s> Script<'s> {
    pub(super) fn new(bytes: &'s [u8]) -> Script<'s> {
        Script(bytes)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next bytes, as many as there are up to `length`.
    pub(super) fn bytes(&mut self, length: usize) -> &'s [u8] {
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let bytes = self.bytes(N);
        let mut array = [0; N];
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(super) fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Returns an address: seven times of eight, one among the buffers.
    pub(super) fn address(&mut self) -> u64 {
        match self.byte() {
            kind if kind & 7 != 7 => BUFFERS + (u64::from(self.half()) << 4),
            kind if kind & 8 == 0 => MEMORY_SIZE as u64 - u64::from(self.byte()),
            _ => self.long(),
        }
    }

    /// Returns a length: seven times of eight, one that a driver would choose.
    pub(super) fn length(&mut self) -> u32 {
        match self.byte() {
            kind if kind & 7 != 7 => self.half().into(),
            _ => self.word(),
        }
    }

    /// Does the next step; `request` makes one in the device's own format.
    fn step<D: VirtioDevice>(&mut self, machine: &mut Machine<D>, request: Request<D>) {
        let kind = self.byte();
        let count = machine.queues.len();
        let index = usize::from(kind >> 4) % count;
        match kind & 15 {
            0..=3 => request(self, machine),
            4..=5 => {
                let at = BUFFERS + (u64::from(self.half()) << 4);
                let length = self.byte().into();
                let bytes = self.bytes(length);
                machine.write(at, bytes);
            }
            6..=8 => {
                let count = 1 + self.byte() % MAX_PARTS;
                let mut part = || (self.address(), self.length(), self.byte() & 1 == 1);
                let parts: Vec<_> = (0..count).map(|_| part()).collect();
                machine.queues[index].add(&parts);
            }
            9 => {
                let table = match self.byte() & 1 {
                    0 => machine.queues[index].rings()[0],
                    _ => BUFFERS + (u64::from(self.half()) << 4),
                };
                let fields = (self.address(), self.length(), self.half() & 7, self.half());
                machine.queues[index].write_descriptor(table, self.byte().into(), fields);
            }
            10 => {
                let head = self.half();
                machine.queues[index].offer(head);
            }
            11 => {
                let available = self.half();
                machine.queues[index].set_available(available);
            }
            12 => {
                let offset = self.half().into();
                let length = self.byte().into();
                let bytes = self.bytes(length);
                machine.device.write_config(offset, bytes);
            }
            13 => {
                let offset = self.half().into();
                let mut bytes = [0; 16];
                machine.device.read_config(offset, &mut bytes);
            }
            14 => machine.queues[index].notify(),
            _ => machine.features = self.long(),
        }
    }
}

/// Makes a request in a device's own format.
pub(super) type Request<D> = fn(&mut Script, &mut Machine<D>);

/// Makes no request.
pub(super) fn nothing<D: VirtioDevice>(_: &mut Script, _: &mut Machine<D>) {}

/// Has a driver do what the script says while the device works, and stops the device once it has
/// used what is in the queues `served`.
pub(super) fn run<D: VirtioDevice>(
    machine: &mut Machine<D>,
    script: &[u8],
    served: &[usize],
    request: Request<D>,
) {
    machine.write(BUFFERS, &[0; WRITTEN]);
    let mut script = Script::new(script);
    while !script.is_over() {
        script.step(machine, request);
    }
    machine.queues.iter().for_each(DriverQueue::notify);
    let end = Instant::now() + PATIENCE;
    let is_idle = |machine: &Machine<D>| {
        let used = |&index: &usize| machine.queues[index].has_used_all();
        served.iter().all(used) || machine.interrupt.failure().is_some()
    };
    while !is_idle(machine) && Instant::now() < end {
        std::thread::yield_now();
    }
    machine.device.reset();
    // The device's threads catch their panics.
    if let Some(failure) = machine.interrupt.failure() {
        assert!(!failure.contains("bug: "), "{failure}");
    }
    machine.interrupt = Default::default();
}
