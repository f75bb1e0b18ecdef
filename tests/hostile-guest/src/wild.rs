//! What is done to any device: to its registers, its rings, and its descriptors.

use crate::device::*;
use crate::memory::{self, ARENA, ARENA_END, write};
use crate::random::Random;

/// Reads and writes registers in any order, with any width.
pub fn registers(random: &mut Random, device: Device) {
    for _ in 0..1 + random.below(200) {
        let offset = match random.below(4) {
            0 => random.below(0x200),
            1 => 0x100 + random.below(0x100),
            // Those that there are.
            _ => random.pick(&[
                0x10, 0x14, 0x20, 0x24, 0x30, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84,
                0x90, 0x94, 0xa0, 0xa4, 0xac, 0xb0, 0xc0, 0xfc,
            ]),
        };
        let (at, value) = (device.base + offset, random.number());
        match random.below(8) {
            0 => write(at, value as u8),
            1 => write(at, value as u16),
            2 => write(at, value),
            3 => drop(memory::read::<u64>(at)),
            4 => drop(memory::read::<u8>(at)),
            5 => device.write(STATUS, random.pick(&[0, 1, 3, 11, 15, 64, 128, 0xff, 8, 4])),
            _ => write(at, value as u32),
        }
    }
    device.reset();
}

/// Negotiates anything, has queues of any size anywhere, and starts.
pub fn rings(random: &mut Random, device: Device) {
    device.reset();
    device.write(STATUS, 1);
    device.write(STATUS, 3);
    for half in 0..2 + u32::from(random.once_in(16)) {
        device.write(FEATURES_SELECT, half);
        let offered = device.read(FEATURES);
        device.write(ACCEPTED_SELECT, half);
        let accepted = match random.below(8) {
            0 => random.word(),
            1 => offered & random.word() | u32::from(half == 1),
            _ => offered,
        };
        device.write(ACCEPTED, accepted);
    }
    device.write(STATUS, 11);
    let mut shared = random.address() & !0xfff;
    for index in 0..MAX_QUEUES {
        let most = device.queue_max(index);
        if most == 0 || random.once_in(16) {
            continue;
        }
        let size = match random.below(8) {
            0 => random.word(),
            1 => most * 2,
            2 => 1,
            3 => most - 1,
            _ => most,
        };
        device.write(QUEUE_SIZE, size);
        for register in [QUEUE_TABLE, QUEUE_AVAILABLE, QUEUE_USED] {
            let address = match random.below(16) {
                0 => random.address(),
                1 => random.address() & !15,
                // On top of each other.
                2 => shared,
                _ => ARENA + (random.below(ARENA_END - ARENA) & !0xfff),
            };
            shared = address;
            device.write_long(register, address);
            scribble(random, address, 256);
        }
        device.write(
            QUEUE_READY,
            if random.once_in(16) { random.word() } else { 1 },
        );
    }
    device.go();
    for _ in 0..random.below(64) {
        device.write(NOTIFY, random.below(u64::from(MAX_QUEUES)) as u32);
        let at = random.address();
        scribble(random, at, 16);
    }
    if random.once_in(2) {
        device.reset();
    }
}

/// Writes anything where devices look, if it is there.
fn scribble(random: &mut Random, at: u64, words: u64) {
    if !(ARENA..ARENA_END - 8 * words).contains(&at) {
        return;
    }
    for at in (at..at + 8 * words).step_by(8) {
        write(at, random.number());
    }
}

/// Sets a device up as it should, and gives it chains that aren't.
pub fn chains(random: &mut Random, device: Device) {
    device.write(FEATURES_SELECT, 0);
    let accepted = device.read(FEATURES) & random.pick(&[0, u32::MAX, u32::MAX, 1 << 29, 1 << 28]);
    device.negotiate(accepted);
    let mut queues = [None; MAX_QUEUES as usize];
    for (index, queue) in (0..).zip(&mut queues) {
        *queue = device.queue(index);
    }
    device.go();
    for _ in 0..1 + random.below(32) {
        let index = random.below(3) as usize;
        let Some(queue) = &mut queues[index] else {
            continue;
        };
        for _ in 0..1 + random.below(8) {
            chain(random, queue);
        }
        queue.show();
        if random.once_in(8) {
            write(queue.available + 2, random.word() as u16);
        }
        queue.notify();
        // While the device works on it.
        for _ in 0..random.below(64) {
            change(random, queue);
        }
        if random.once_in(16) {
            break;
        }
    }
    if random.once_in(2) {
        device.reset();
    }
}

/// Makes a chain, with an error or without.
fn chain(random: &mut Random, queue: &mut Queue) {
    let first = random.below(u64::from(queue.size)) as u16;
    let length = 1 + random.below(12) as u16;
    for step in 0..length {
        let index = (first + step) % queue.size;
        let at = random.address();
        let mut long = random.length();
        // A header of a kind that devices know.
        if (ARENA..ARENA_END - 64).contains(&at) && random.once_in(2) {
            write(at, random.below(64) as u32);
            write(at + 4, random.below(64) as u32);
            write(at + 8, random.number());
            long = random.pick(&[12, 16, 40, 44, 80, 64, long]);
        }
        let mut flags = if step + 1 < length { NEXT } else { 0 };
        if random.once_in(2) {
            flags |= WRITABLE;
        }
        let mut next = (index + 1) % queue.size;
        match random.below(32) {
            0 => next = first,
            1 => next = random.word() as u16,
            2 => flags = random.word() as u16,
            3 => {
                flags |= INDIRECT;
                long = random.pick(&[16, 32, 160, 15, 0, 16 * 1024, long]);
                scribble(random, at, 40);
            }
            _ => {}
        }
        queue.describe(index, (at, long), flags, next);
    }
    let head = match random.below(32) {
        0 => random.word() as u16,
        1 => queue.size,
        _ => first,
    };
    queue.offer_head(head);
}

/// Changes something in the rings.
fn change(random: &mut Random, queue: &Queue) {
    let place = random.below(u64::from(queue.size));
    match random.below(6) {
        0 => write(queue.table + 16 * place, random.address()),
        1 => write(queue.table + 16 * place + 8, random.length()),
        2 => write(queue.table + 16 * place + 12, random.below(8) as u16),
        3 => write(queue.available + 4 + 2 * place, random.word() as u16),
        4 => write(queue.used + 2 * place, random.word() as u16),
        _ => queue.notify(),
    }
}

/// Notifies without end, and of nothing.
pub fn storm(random: &mut Random, device: Device) {
    device.negotiate(0);
    for index in 0..MAX_QUEUES {
        device.queue(index);
    }
    device.go();
    let queue = random.below(u64::from(MAX_QUEUES)) as u32;
    for _ in 0..random.below(5000) {
        device.write(NOTIFY, queue);
    }
}

/// Starts a device and stops it, again and again, in the middle of its work.
pub fn resets(random: &mut Random, device: Device) {
    for _ in 0..1 + random.below(40) {
        device.negotiate(0);
        let mut queues = [None; 3];
        for (index, queue) in (0..).zip(&mut queues) {
            *queue = device.queue(index);
        }
        device.go();
        for queue in queues.iter_mut().flatten() {
            let index = random.below(16) as u16;
            let at = ARENA + (random.below(ARENA_END - ARENA - 0x10_0000) & !0xfff);
            queue.offer(
                index,
                &[(at, 44, false), (at + 64, 4096, random.once_in(2))],
            );
            queue.notify();
        }
        device.reset();
    }
}
