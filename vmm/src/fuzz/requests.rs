//! Requests in the devices' own formats, with fields that a script chooses: bytes alone seldom come
//! past a device's first look.

use super::script::Script;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::block::Block;
use crate::devices::virtio::fs::Fs;
use crate::devices::virtio::net::bare::Bare;
use crate::devices::virtio::testing::{BUFFERS, Machine, Part};
use crate::devices::virtio::vsock::Vsock;

/// Where the next request goes: each has a page among the buffers.
fn place(script: &mut Script) -> u64 {
    BUFFERS + 0x1000 * u64::from(script.byte())
}

/// Gives queue `index` a chain of what the device reads from `at` and what it writes.
fn add<D: VirtioDevice>(
    machine: &mut Machine<D>,
    index: usize,
    read: (u64, usize),
    write: &[Part],
) {
    let (at, length) = read;
    let mut parts = vec![(at, length as u32, false)];
    parts.extend(write);
    machine.queues[index].add(&parts);
}

/// A request of a disk (virtio 1.3, section 5.2.6).
pub(super) fn block(script: &mut Script, machine: &mut Machine<Block>) {
    let at = place(script);
    let kind = u32::from(script.byte() & 15);
    let sector = match script.byte() {
        0 => script.long(),
        _ => script.half().into(),
    };
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    machine.write(at, &header);
    let length = script.byte().into();
    machine.write(at + 0x100, script.bytes(length));
    let data = (at + 0x100, script.length(), script.byte() & 1 == 1);
    let queue = usize::from(script.byte() & 1);
    add(machine, queue, (at, 16), &[data, (at + 0x80, 1, true)]);
}

/// A request of a file system, in FUSE's format (virtio 1.3, section 5.11.6; the kernel's
/// `include/uapi/linux/fuse.h`).
pub(super) fn fs(script: &mut Script, machine: &mut Machine<Fs>) {
    const HEADER: usize = 40;
    const INIT: u32 = 26;
    let at = place(script);
    let (opcode, node) = match script.byte() {
        opcode if opcode & 0x80 != 0 => (INIT, 0),
        opcode => (u32::from(opcode % 54), u64::from(script.byte() & 15)),
    };
    let known;
    let body = if opcode == INIT {
        // Version 7.38, with everything on offer.
        let fields = [7, 38, 0x2_0000, u32::MAX, 1 << 2];
        known = fields.map(u32::to_le_bytes).concat();
        &known[..]
    } else {
        let length = script.byte().into();
        script.bytes(length)
    };
    let said = match script.byte() {
        255 => script.word(),
        _ => (HEADER + body.len()) as u32,
    };
    let ids = u32::from(script.byte() & 1) * 1000;
    let mut header = Vec::with_capacity(HEADER);
    header.extend(said.to_le_bytes());
    header.extend(opcode.to_le_bytes());
    header.extend(u64::from(script.byte()).to_le_bytes());
    header.extend(node.to_le_bytes());
    header.extend(ids.to_le_bytes());
    header.extend(ids.to_le_bytes());
    header.resize(HEADER, 0);
    machine.write(at, &header);
    machine.write(at + HEADER as u64, body);
    let room = [(at + 0x800, 16, true), (at + 0x810, 0x7f0, true)];
    add(machine, 1, (at, HEADER + body.len()), &room);
}

/// A packet to send (virtio 1.3, section 5.1.6), or room for one.
pub(super) fn net(script: &mut Script, machine: &mut Machine<Bare>) {
    let at = place(script);
    if script.byte() & 1 == 0 {
        machine.queues[0].add(&[(at, script.length(), true)]);
        return;
    }
    let header = script.bytes(12);
    machine.write(at, header);
    let length = script.byte().into();
    let frame = script.bytes(length);
    machine.write(at + 0x100, frame);
    let frame = (at + 0x100, frame.len() as u32, false);
    add(machine, 1, (at, 12), &[frame]);
}

/// A packet (virtio 1.3, section 5.10.6), or room for one.
pub(super) fn vsock(script: &mut Script, machine: &mut Machine<Vsock>) {
    let at = place(script);
    let kind = script.byte();
    if kind & 3 == 0 {
        machine.queues[0].add(&[(at, script.length(), true)]);
        return;
    }
    let length = script.byte().into();
    let data = script.bytes(length);
    let said = match kind & 0x80 {
        0 => data.len() as u32,
        _ => script.word(),
    };
    let port = 1024 + u32::from(script.byte() & 3);
    let guest_port = u32::from(script.byte() & 3);
    let operation = u16::from(kind >> 2 & 7);
    let mut packet = Vec::with_capacity(44);
    packet.extend(3_u64.to_le_bytes());
    packet.extend(2_u64.to_le_bytes());
    packet.extend(guest_port.to_le_bytes());
    packet.extend(port.to_le_bytes());
    packet.extend(said.to_le_bytes());
    packet.extend(1_u16.to_le_bytes());
    packet.extend(operation.to_le_bytes());
    packet.extend(u32::from(script.byte()).to_le_bytes());
    packet.extend(script.word().to_le_bytes());
    packet.extend(script.word().to_le_bytes());
    machine.write(at, &packet);
    machine.write(at + 44, data);
    add(machine, 1, (at, packet.len() + data.len()), &[]);
}
