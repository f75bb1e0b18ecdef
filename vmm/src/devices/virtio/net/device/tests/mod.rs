//! Tests the device between a driver in plain memory and a tap in a network namespace of the test's
//! own; and a pair of its queues on a socket, which can be filled and closed at will.

mod frames;
mod hostile;
mod namespace;
mod pair;
mod queues;
mod slot;
mod traffic;

use std::collections::HashMap;
use std::net::{Ipv4Addr, UdpSocket};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::*;
use crate::devices::virtio::net::header::{self, Header};
use crate::devices::virtio::testing::*;
use frames::Frame;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

const RX: usize = 0;
const TX: usize = 1;

/// Where tests put the packets to send, and the buffers for received ones.
const SENT: u64 = BUFFERS;
const RECEIVED: u64 = BUFFERS + 0x10_0000;

/// What every driver accepts here; it is notified of everything used.
const BASIC: u64 = BASIC_FEATURES & !(1 << VIRTIO_RING_F_EVENT_IDX);

fn feature(bit: u32) -> u64 {
    1 << bit
}

/// The driver.
struct Driver<D: VirtioDevice> {
    machine: Machine<D>,
    /// The buffers of the receive queues: by queue and head, address and length.
    offered: HashMap<(usize, u16), (u64, u32)>,
    next_buffer: u64,
}

impl<D: VirtioDevice> Driver<D> {
    /// Activates the device, accepting `features`.
    fn new(device: D, features: u64) -> Driver<D> {
        let mut machine = Machine::new(device);
        machine.device.reset();
        machine.features = BASIC | features;
        machine.activate();
        Driver {
            machine,
            offered: HashMap::new(),
            next_buffer: RECEIVED,
        }
    }

    /// Gives a receive queue `count` new buffers of `length` bytes.
    fn offer(&mut self, queue: usize, count: usize, length: u32) {
        for _ in 0..count {
            let at = self.next_buffer;
            self.next_buffer += u64::from(length);
            self.offer_at(queue, at, length);
        }
        self.machine.queues[queue].notify();
    }

    fn offer_at(&mut self, queue: usize, at: u64, length: u32) {
        let head = self.machine.queues[queue].add(&[(at, length, true)]);
        self.offered.insert((queue, head), (at, length));
    }

    /// Makes a packet available, in three parts, without notifying.
    fn add(&mut self, queue: usize, at: u64, header: Header, frame: &[u8]) {
        self.machine.write(at, &header.to_bytes());
        self.machine.write(at + 0x100, frame);
        let split = frame.len() as u32 / 3;
        let rest = frame.len() as u32 - split;
        let parts = [
            (at, header::SIZE as u32, false),
            (at + 0x100, split, false),
            (at + 0x100 + u64::from(split), rest, false),
        ];
        self.machine.queues[queue].add(&parts);
    }

    /// Sends a packet and waits until the device is done with it.
    fn send(&mut self, queue: usize, header: Header, frame: &[u8]) {
        self.add(queue, SENT, header, frame);
        self.machine.queues[queue].notify();
        assert_eq!(self.machine.queues[queue].used().1, 0);
    }

    /// Waits for the next packet, and offers its buffers again.
    fn receive(&mut self, queue: usize) -> (Header, Vec<u8>) {
        let first = self.machine.queues[queue].used();
        self.take(queue, first)
    }

    fn take(&mut self, queue: usize, first: (u16, u32)) -> (Header, Vec<u8>) {
        let mut bytes = self.read_used(queue, first);
        let rest = bytes.split_off(header::SIZE);
        let header = Header::from_bytes(bytes.try_into().unwrap());
        let mut frame = rest;
        for _ in 1..header.buffers {
            // The rest of a packet is there as soon as its beginning is.
            let used = self.machine.queues[queue].try_used().unwrap();
            frame.extend(self.read_used(queue, used));
        }
        self.machine.queues[queue].notify();
        (header, frame)
    }

    fn read_used(&mut self, queue: usize, (head, length): (u16, u32)) -> Vec<u8> {
        let (at, room) = self.offered.remove(&(queue, head)).unwrap();
        assert!(length <= room);
        let bytes = self.machine.read(at, length as usize);
        self.offer_at(queue, at, room);
        bytes
    }
}

/// A guest with an address, on a tap in this thread's network namespace.
struct Guest {
    driver: Driver<Net>,
    host_mac: [u8; 6],
}

impl Guest {
    /// Makes a guest that knows the host's address, and that the host knows.
    fn new(queues: usize, features: u64, buffer: u32) -> Guest {
        let tap = Tap::open("tap0", queues).unwrap();
        namespace::bring_up("tap0", HOST);
        let driver = Driver::new(Net::new(tap, MAC, 1500).unwrap(), features);
        let mut guest = Guest {
            driver,
            host_mac: [0xff; 6],
        };
        guest.driver.offer(RX, 200, buffer);
        guest.meet();
        guest
    }

    fn meet(&mut self) {
        let request = frames::arp_request();
        self.driver.send(TX, Header::default(), &request);
        let reply = loop {
            let (_, frame) = self.driver.receive(RX);
            if frame[12..14] == [8, 6] && frame[20..22] == [0, 2] {
                break frame;
            }
        };
        assert_eq!(reply[..6], MAC);
        assert_eq!(reply[28..32], HOST.octets());
        self.host_mac.copy_from_slice(&reply[22..28]);
    }

    fn send(&mut self, queue: usize, header: Header, packet: &[u8]) {
        let frame = frames::ethernet(self.host_mac, packet);
        self.driver.send(queue, header, &frame);
    }

    /// Returns the next IPv4 packet: whatever else comes is the host's own business.
    fn receive(&mut self, queue: usize) -> (Header, Frame) {
        loop {
            let (header, frame) = self.driver.receive(queue);
            if frame[12..14] == [8, 0] {
                return (header, Frame(frame));
            }
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((HOST, 0)).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().unwrap().port()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n / 3 + n / 1000) as u8).collect()
}
