//! A virtio device behind its registers (virtio 1.3, section 4.2), and a driver that does as it should.

use crate::memory::{self, RINGS, RINGS_SLOT, read, write};
use crate::words::Words;

pub const NET: u32 = 1;
pub const BLOCK: u32 = 2;
pub const VSOCK: u32 = 19;
pub const FILES: u32 = 26;

/// The `VIRTIO_F_VERSION_1` bit of the second word of features.
const VERSION_1: u32 = 1;

// Registers.
pub const FEATURES: u64 = 0x10;
pub const FEATURES_SELECT: u64 = 0x14;
pub const ACCEPTED: u64 = 0x20;
pub const ACCEPTED_SELECT: u64 = 0x24;
pub const QUEUE_SELECT: u64 = 0x30;
pub const QUEUE_MAX: u64 = 0x34;
pub const QUEUE_SIZE: u64 = 0x38;
pub const QUEUE_READY: u64 = 0x44;
pub const NOTIFY: u64 = 0x50;
pub const STATUS: u64 = 0x70;
pub const QUEUE_TABLE: u64 = 0x80;
pub const QUEUE_AVAILABLE: u64 = 0x90;
pub const QUEUE_USED: u64 = 0xa0;

/// Most queues that are looked at.
pub const MAX_QUEUES: u32 = 8;
pub const MAX_DEVICES: usize = 17;

#[derive(Clone, Copy)]
pub struct Device {
    pub base: u64,
    pub kind: u32,
    /// Its number among those on the command line.
    number: u64,
}

impl Device {
    /// Finds the devices that the kernel's command line has, as `virtio_mmio.device=4K@0xd0000000:5`.
    pub fn all(command_line: &Words) -> ([Option<Device>; MAX_DEVICES], usize) {
        let mut found = [None; MAX_DEVICES];
        let mut count = 0;
        for (number, place) in (0..).zip(command_line.values("virtio_mmio.device")) {
            let Some(base) = address(place) else { continue };
            // "virt", and a device behind it.
            if count < MAX_DEVICES && read::<u32>(base) == 0x7472_6976 {
                let kind = read(base + 8);
                found[count] = Some(Device { base, kind, number });
                count += usize::from(kind != 0);
            }
        }
        (found, count)
    }

    pub fn read(&self, register: u64) -> u32 {
        read(self.base + register)
    }

    pub fn write(&self, register: u64, value: u32) {
        write(self.base + register, value);
    }

    pub fn write_long(&self, register: u64, value: u64) {
        self.write(register, value as u32);
        self.write(register + 4, (value >> 32) as u32);
    }

    pub fn reset(&self) {
        self.write(STATUS, 0);
    }

    pub fn queue_max(&self, index: u32) -> u32 {
        self.write(QUEUE_SELECT, index);
        self.read(QUEUE_MAX)
    }

    /// Resets it and accepts these features of the first word, and that it is a modern device.
    pub fn negotiate(&self, accepted: u32) {
        self.reset();
        self.write(STATUS, 1);
        self.write(STATUS, 3);
        self.write(ACCEPTED_SELECT, 0);
        self.write(ACCEPTED, accepted);
        self.write(ACCEPTED_SELECT, 1);
        self.write(ACCEPTED, VERSION_1);
        self.write(STATUS, 11);
    }

    /// Sets a queue up.
    pub fn queue(&self, index: u32) -> Option<Queue> {
        let size = self.queue_max(index).min(128);
        if size == 0 {
            return None;
        }
        let slot = (self.number * u64::from(MAX_QUEUES) + u64::from(index)) % 160;
        let rings = RINGS + slot * RINGS_SLOT;
        let queue = Queue {
            device: *self,
            index,
            size: size as u16,
            table: rings,
            available: rings + 0x4000,
            used: rings + 0x8000,
            offered: 0,
            taken: 0,
        };
        for at in (rings..rings + 0xc000).step_by(8) {
            write(at, 0_u64);
        }
        self.write(QUEUE_SIZE, size);
        self.write_long(QUEUE_TABLE, queue.table);
        self.write_long(QUEUE_AVAILABLE, queue.available);
        self.write_long(QUEUE_USED, queue.used);
        self.write(QUEUE_READY, 1);
        Some(queue)
    }

    /// Says that the driver is ready.
    pub fn go(&self) {
        self.write(STATUS, 15);
    }
}

fn address(place: &str) -> Option<u64> {
    let (_, address) = place.split_once("@0x")?;
    u64::from_str_radix(address.split(':').next()?, 16).ok()
}

/// A part of a chain: an address, a length, and whether the device writes to it.
pub type Part = (u64, u32, bool);

pub const NEXT: u16 = 1;
pub const WRITABLE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// A queue that was set up.
#[derive(Clone, Copy)]
pub struct Queue {
    pub device: Device,
    pub index: u32,
    pub size: u16,
    pub table: u64,
    pub available: u64,
    pub used: u64,
    /// The index of what is offered next.
    pub offered: u16,
    /// The index of what the device uses next.
    taken: u16,
}

impl Queue {
    pub fn describe(&self, index: u16, (at, length): (u64, u32), flags: u16, next: u16) {
        let entry = self.table + 16 * u64::from(index);
        write(entry, at);
        write(entry + 8, length);
        write(entry + 12, flags);
        write(entry + 14, next);
    }

    /// Offers a chain whose descriptors are those from `head` on.
    pub fn offer(&mut self, head: u16, parts: &[Part]) {
        for (index, part) in (head..).zip(parts) {
            let (at, length, is_writable) = *part;
            let is_last = usize::from(index - head) + 1 == parts.len();
            let flags = if is_writable { WRITABLE } else { 0 } | if is_last { 0 } else { NEXT };
            self.describe(
                index % self.size,
                (at, length),
                flags,
                (index + 1) % self.size,
            );
        }
        self.offer_head(head);
        self.show();
    }

    /// Puts a head into the ring, which isn't shown yet.
    pub fn offer_head(&mut self, head: u16) {
        let place = u64::from(self.offered % self.size);
        write(self.available + 4 + 2 * place, head);
        self.offered = self.offered.wrapping_add(1);
    }

    /// Shows the device what is offered.
    pub fn show(&self) {
        write(self.available + 2, self.offered);
    }

    pub fn notify(&self) {
        self.device.write(NOTIFY, self.index);
    }

    /// Returns the next chain that the device has used, and how much it wrote.
    pub fn take(&mut self) -> Option<(u32, u32)> {
        if read::<u16>(self.used + 2) == self.taken {
            return None;
        }
        let entry = self.used + 4 + 8 * u64::from(self.taken % self.size);
        self.taken = self.taken.wrapping_add(1);
        Some((read(entry), read(entry + 4)))
    }

    /// Waits for one; not for long.
    pub fn wait(&mut self) -> Option<(u32, u32)> {
        for _ in 0..100_000 {
            if let Some(used) = self.take() {
                return Some(used);
            }
            core::hint::spin_loop();
        }
        None
    }

    /// Has the device do what is in these bytes, and returns how much it wrote to `room`.
    pub fn request(&mut self, at: u64, bytes: &[u8], room: &[Part]) -> Option<u32> {
        memory::put(at, bytes);
        let mut parts = [(at, bytes.len() as u32, false); 4];
        parts[1..=room.len()].copy_from_slice(room);
        while self.take().is_some() {}
        self.offer(0, &parts[..=room.len()]);
        self.notify();
        self.wait().map(|(_, written)| written)
    }
}
