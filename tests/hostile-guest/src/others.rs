//! Requests of disks, and frames, that are nearly right.

use crate::device::*;
use crate::memory::{ARENA, write};
use crate::random::Random;

/// Has a disk read, write, clear and flush, anywhere (virtio 1.3, section 5.2.6).
pub fn disk(random: &mut Random, device: Device) {
    device.write(FEATURES_SELECT, 0);
    let offered = device.read(FEATURES);
    device.negotiate(offered & !(1 << 28));
    let Some(mut queue) = device.queue(0) else {
        return;
    };
    device.go();
    for _ in 0..1 + random.below(200) {
        let kind: u32 = random.pick(&[0, 1, 4, 8, 11, 13, 14, 2, 99]);
        let at = ARENA + 0x1000 * random.below(64);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        let sector = match random.below(4) {
            0 => random.number(),
            _ => random.below(1 << 15),
        };
        header[8..].copy_from_slice(&sector.to_le_bytes());
        let data = at + 0x100;
        if matches!(kind, 11 | 13) {
            // Which sectors to discard or clear, how many, and flags.
            write(data, random.number());
            write(data + 8, random.word());
            write(data + 12, random.below(3) as u32);
        }
        let length = match random.below(4) {
            0 => random.length(),
            _ => 512 * random.below(32) as u32,
        };
        let length = if matches!(kind, 11 | 13) { 16 } else { length };
        let is_read = matches!(kind, 0 | 8) != random.once_in(16);
        let done = queue.request(
            at,
            &header,
            &[(data, length, is_read), (at + 0x20, 1, true)],
        );
        if done.is_none() {
            // The device has given up, or nobody is behind it.
            return;
        }
    }
}

/// Sends frames, with headers that ask for anything (virtio 1.3, section 5.1.6).
pub fn frames(random: &mut Random, device: Device) {
    device.write(FEATURES_SELECT, 0);
    let offered = device.read(FEATURES);
    device.negotiate(offered & !(1 << 28));
    let mut queues = [None; 3];
    for (index, queue) in (0..).zip(&mut queues) {
        *queue = device.queue(index);
    }
    device.go();
    let [_, Some(send), _] = &mut queues else {
        return;
    };
    for _ in 0..1 + random.below(200) {
        let at = ARENA + 0x1_0000 * random.below(64);
        let mut bytes = [0; 128];
        random.fill(&mut bytes[12..]);
        if random.once_in(2) {
            random.fill(&mut bytes[..12]);
            bytes[0] &= 7;
        }
        let more = random.below(1 << 16) as u32;
        let done = send.request(at, &bytes, &[(at + 128, more, false)]);
        if done.is_none() {
            // The device has given up, or nobody is behind it.
            return;
        }
    }
}

/// Has the console print a lot.
pub fn flood(random: &mut Random) {
    let mut line = [b'x'; 4096];
    if random.once_in(2) {
        random.fill(&mut line);
    } else {
        line[200] = b'\n';
    }
    for _ in 0..random.below(64) {
        crate::console::print(&line);
    }
    // The port's other registers, with its loop back.
    for _ in 0..random.below(64) {
        let port = 0x3f8 + random.below(8) as u16;
        crate::console::out(port, random.word() as u8);
        crate::console::inward(port);
    }
    crate::console::out(0x3fc, 0);
    crate::console::out(0x3fb, 3);
}
