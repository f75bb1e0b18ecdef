//! Sockets (virtio 1.3, section 5.10): a driver that works, and packets that are wrong.

use crate::device::*;
use crate::memory::{self, ARENA, read};
use crate::random::Random;

const HOST: u64 = 2;
const GUEST: u64 = 3;
pub const HEADER: u32 = 44;

pub const REQUEST: u16 = 1;
pub const RESET: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const DATA: u16 = 5;
pub const CREDIT: u16 = 6;

/// How much the host may send before it is told that it was read.
const WINDOW: u32 = 64 << 10;
/// How many packets are on their way to the host, and from it; and how long they are at most.
const SENDING: u64 = 32;
const RECEIVING: u16 = 32;
pub const LONGEST: u32 = 4096;
const ROOM: u64 = 0x2000;
/// Where they are: nothing else uses this part of memory while the driver works.
const PACKETS: u64 = ARENA;
pub const PACKETS_END: u64 = ARENA + (SENDING + RECEIVING as u64) * ROOM;

/// A packet.
#[derive(Clone, Copy, Default)]
pub struct Packet {
    pub host_port: u32,
    pub guest_port: u32,
    pub length: u32,
    pub operation: u16,
    pub flags: u32,
    pub window: u32,
    pub forwarded: u32,
    /// Where its data is.
    pub data: u64,
}

/// The driver.
pub struct Vsock {
    receive: Queue,
    send: Queue,
    sent: u64,
    /// How many buffers the device has used.
    freed: u64,
    /// The buffer of the packet that was received last.
    looked_at: Option<u16>,
}

fn header(packet: &Packet, source: u64, destination: u64, kind: u16) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    let mut at = 0;
    let mut add = |field: &[u8]| {
        bytes[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    };
    add(&source.to_le_bytes());
    add(&destination.to_le_bytes());
    add(&packet.guest_port.to_le_bytes());
    add(&packet.host_port.to_le_bytes());
    add(&packet.length.to_le_bytes());
    add(&kind.to_le_bytes());
    add(&packet.operation.to_le_bytes());
    add(&packet.flags.to_le_bytes());
    add(&packet.window.to_le_bytes());
    add(&packet.forwarded.to_le_bytes());
    bytes
}

impl Vsock {
    pub fn start(device: Device) -> Option<Vsock> {
        device.negotiate(0);
        let (receive, send) = (device.queue(0)?, device.queue(1)?);
        device.queue(2);
        device.go();
        let mut vsock = Vsock {
            receive,
            send,
            sent: 0,
            freed: 0,
            looked_at: None,
        };
        for buffer in 0..RECEIVING {
            vsock.give(buffer);
        }
        vsock.receive.notify();
        Some(vsock)
    }

    /// Gives the device a buffer for a packet.
    fn give(&mut self, buffer: u16) {
        let at = PACKETS + (SENDING + u64::from(buffer)) * ROOM;
        self.receive.offer(buffer, &[(at, HEADER + LONGEST, true)]);
    }

    /// Returns the next packet of the host's, whose data is there until the next call.
    pub fn receive(&mut self) -> Option<Packet> {
        if let Some(buffer) = self.looked_at.take() {
            self.give(buffer);
            self.receive.notify();
        }
        let (buffer, _) = self.receive.take()?;
        let buffer = buffer as u16 % RECEIVING;
        self.looked_at = Some(buffer);
        let at = PACKETS + (SENDING + u64::from(buffer)) * ROOM;
        Some(Packet {
            host_port: read(at + 16),
            guest_port: read(at + 20),
            length: read::<u32>(at + 24).min(LONGEST),
            operation: read(at + 30),
            flags: read(at + 32),
            window: read(at + 36),
            forwarded: read(at + 40),
            data: at + u64::from(HEADER),
        })
    }

    /// Sends a packet, with any header before it, if the device takes packets.
    fn send_header(&mut self, header: &[u8], data: &[u8]) -> bool {
        while self.sent - self.freed >= SENDING {
            if self.send.wait().is_none() {
                return false;
            }
            self.freed += 1;
        }
        while self.send.take().is_some() {
            self.freed += 1;
        }
        let slot = self.sent % SENDING;
        let at = PACKETS + slot * ROOM;
        memory::put(at, header);
        memory::put(at + u64::from(HEADER), data);
        let length = (header.len() + data.len()) as u32;
        self.send.offer(slot as u16, &[(at, length, false)]);
        self.send.notify();
        self.sent += 1;
        true
    }

    pub fn send(&mut self, packet: &Packet, data: &[u8]) -> bool {
        let packet = Packet {
            length: data.len() as u32,
            window: WINDOW,
            ..*packet
        };
        self.send_header(&header(&packet, GUEST, HOST, 1), data)
    }

    /// Sends packets that are wrong in some field, for connections that there are or not.
    pub fn wrong_packets(&mut self, random: &mut Random, ports: &[u32]) {
        let mut data = [0; 512];
        random.fill(&mut data);
        for _ in 0..1 + random.below(200) {
            let data = &data[..random.pick(&[0, 0, 1, 100, 512])];
            let operation = match random.below(8) {
                0 => random.word() as u16,
                other => other as u16,
            };
            let mut packet = Packet {
                host_port: random.pick(ports),
                guest_port: random.pick(&[1, 2, 77, 1000, 1001, u32::MAX]),
                length: data.len() as u32,
                operation,
                flags: random.below(4) as u32,
                window: random.word(),
                forwarded: random.word(),
                data: 0,
            };
            let (mut source, mut destination, mut kind) = (GUEST, HOST, 1);
            match random.below(16) {
                0 => source = random.number(),
                1 => destination = random.number(),
                2 => kind = random.word() as u16,
                3 => packet.host_port = random.word(),
                4 => packet.guest_port = random.word(),
                // The device is right to give up after this one.
                5 if random.once_in(400) => packet.length = random.word(),
                6 => packet.flags = random.word(),
                _ => {}
            }
            if !self.send_header(&header(&packet, source, destination, kind), data) {
                return;
            }
            while self.receive().is_some() {
                if random.once_in(200) {
                    // The device has one buffer less.
                    self.looked_at = None;
                }
            }
        }
    }

    /// Opens thousands of connections, most of which nobody waits for.
    pub fn connections(&mut self, random: &mut Random, ports: &[u32]) {
        for guest_port in 0..random.below(3000) as u32 {
            let packet = Packet {
                host_port: random.pick(ports) + random.below(3) as u32,
                guest_port: 0x1_0000 + guest_port,
                operation: REQUEST,
                ..Packet::default()
            };
            if !self.send(&packet, &[]) {
                return;
            }
            while self.receive().is_some() {}
        }
    }
}
