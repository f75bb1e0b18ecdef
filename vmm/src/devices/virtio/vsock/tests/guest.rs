//! A guest's driver.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::devices::virtio::buffers::Buffers;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::vsock::connection::RECEIVE_WINDOW;
use crate::devices::virtio::vsock::packet::*;
use crate::devices::virtio::vsock::*;
use vm_memory::{GuestAddress, GuestMemory};

pub(super) const GUEST_CID: u64 = 3;
pub(super) const PORT: u32 = 1024;
pub(super) const GUEST_PORT: u32 = 5000;
/// What the guest says about its own buffer.
pub(super) const GUEST_WINDOW: u32 = 64 << 10;

pub(super) const RX: usize = 0;
pub(super) const TX: usize = 1;
pub(super) const RX_BUFFER: u64 = BUFFERS;
pub(super) const RX_BUFFER_SIZE: u32 = 4096;
pub(super) const TX_BUFFER: u64 = BUFFERS + 0x80_0000;

/// A guest's driver with one socket's worth of bookkeeping.
pub(super) struct Guest {
    pub(super) machine: Machine<Vsock>,
    pub(super) ports: Ports,
    /// Bytes received, which the guest reports as used.
    pub(super) received: u32,
    /// What the device last said about its own buffer.
    pub(super) host_forwarded: u32,
    pub(super) sent: u32,
    pub(super) rx_buffers: u64,
}

impl Guest {
    pub(super) fn new() -> Guest {
        let mut guest = Guest::without_buffers();
        guest.add_buffers(64);
        guest
    }

    pub(super) fn without_buffers() -> Guest {
        let (device, ports) = Vsock::new(GUEST_CID).unwrap();
        Guest {
            machine: Machine::new(device),
            ports,
            received: 0,
            host_forwarded: 0,
            sent: 0,
            rx_buffers: 0,
        }
    }

    pub(super) fn add_buffers(&mut self, count: usize) {
        for _ in 0..count {
            self.add_rx();
        }
        self.machine.queues[RX].notify();
    }

    pub(super) fn add_rx(&mut self) {
        let size = u64::from(RX_BUFFER_SIZE);
        let at = RX_BUFFER + size * (self.rx_buffers % 128);
        self.rx_buffers += 1;
        self.machine.queues[RX].add(&[(at, RX_BUFFER_SIZE, true)]);
    }

    pub(super) fn header(&self, operation: Operation, length: u32) -> Header {
        Header {
            source_cid: GUEST_CID,
            destination_cid: HOST_CID,
            source_port: GUEST_PORT,
            destination_port: PORT,
            length,
            kind: TYPE_STREAM,
            operation: Some(operation),
            flags: 0,
            buffer_size: GUEST_WINDOW,
            forwarded: self.received,
        }
    }

    pub(super) fn send_raw(&mut self, header: &Header, data: &[u8]) {
        self.machine.write(TX_BUFFER, &header.bytes());
        self.machine.write(TX_BUFFER + 0x1000, data);
        let mut parts = vec![(TX_BUFFER, HEADER_SIZE as u32, false)];
        // Like newer Linux: one descriptor per page.
        for (index, page) in data.chunks(4096).enumerate() {
            let at = TX_BUFFER + 0x1000 * (index as u64 + 1);
            parts.push((at, page.len() as u32, false));
        }
        self.machine.queues[TX].run(&parts);
    }

    pub(super) fn send(&mut self, operation: Operation) {
        let header = self.header(operation, 0);
        self.send_raw(&header, &[]);
    }

    pub(super) fn shutdown(&mut self, flags: u32) {
        let mut header = self.header(Operation::Shutdown, 0);
        header.flags = flags;
        self.send_raw(&header, &[]);
    }

    pub(super) fn send_data(&mut self, data: &[u8]) {
        let header = self.header(Operation::Data, data.len() as u32);
        self.sent = self.sent.wrapping_add(data.len() as u32);
        self.send_raw(&header, data);
    }

    /// Returns the next packet from the device.
    pub(super) fn receive(&mut self) -> (Header, Vec<u8>) {
        wait_for("a packet", || self.try_receive())
    }

    pub(super) fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, written) = self.machine.queues[RX].try_used()?;
        let at = RX_BUFFER + u64::from(RX_BUFFER_SIZE) * u64::from(head);
        let bytes = self.machine.read(at, written as usize);
        let memory = &self.machine.memory;
        let mut buffers = Buffers::default();
        buffers.push(memory.get_slice(GuestAddress(at), HEADER_SIZE).unwrap());
        let header = Header::read(&mut buffers).unwrap();
        assert_eq!(written as usize, HEADER_SIZE + header.length as usize);
        if header.operation != Some(Operation::Reset) {
            assert_eq!(header.buffer_size, RECEIVE_WINDOW);
        }
        self.host_forwarded = header.forwarded;
        self.received = self.received.wrapping_add(header.length);
        self.add_rx();
        self.machine.queues[RX].notify();
        Some((header, bytes[HEADER_SIZE..].to_vec()))
    }

    pub(super) fn expect_operation(&mut self, operation: Operation) -> Header {
        let (header, data) = self.receive();
        assert_eq!(header.operation, Some(operation), "{header:?}");
        assert_eq!(header.destination_cid, GUEST_CID);
        assert!(data.is_empty() || operation == Operation::Data);
        header
    }

    /// Both may be reported at once, or one after the other.
    pub(super) fn expect_shutdown_of_both(&mut self) {
        let mut flags = 0;
        while flags != SHUTDOWN_BOTH {
            flags |= self.expect_operation(Operation::Shutdown).flags;
        }
    }

    pub(super) fn assert_silent(&mut self) {
        std::thread::sleep(Duration::from_millis(50));
        let packet = self.try_receive();
        assert!(packet.is_none(), "{packet:?}");
        assert_eq!(self.machine.interrupt.failure(), None);
    }

    pub(super) fn connect(&mut self) -> UnixStream {
        let host = self.ports.expect(PORT).unwrap();
        host.set_read_timeout(Some(TIMEOUT)).unwrap();
        host.set_write_timeout(Some(TIMEOUT)).unwrap();
        self.received = 0;
        self.sent = 0;
        self.send(Operation::Request);
        let response = self.expect_operation(Operation::Response);
        assert_eq!(
            (response.source_port, response.destination_port),
            (PORT, GUEST_PORT)
        );
        host
    }

    /// Sends all of `data`, however slow the host is, as much at a time as credit allows.
    pub(super) fn send_all(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let used = self.sent.wrapping_sub(self.host_forwarded);
            let room = (RECEIVE_WINDOW - used).min(64 << 10) as usize;
            if room == 0 {
                self.expect_operation(Operation::CreditUpdate);
                continue;
            }
            let (now, later) = data.split_at(room.min(data.len()));
            self.send_data(now);
            data = later;
            if let Some((header, _)) = self.try_receive() {
                assert_eq!(header.operation, Some(Operation::CreditUpdate));
            }
        }
    }
}

/// Returns bytes in which no two pieces are the same.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut step = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    (0..length).map(|_| step()).collect()
}
