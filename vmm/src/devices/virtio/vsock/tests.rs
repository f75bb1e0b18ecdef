use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::connection::RECEIVE_WINDOW;
use super::packet::*;
use super::*;
use crate::devices::virtio::buffers::Buffers;
use crate::devices::virtio::testing::*;
use vm_memory::{GuestAddress, GuestMemory};

const GUEST_CID: u64 = 3;
const PORT: u32 = 1024;
const GUEST_PORT: u32 = 5000;
/// What the guest says of its own buffer.
const GUEST_WINDOW: u32 = 64 << 10;

const RX: usize = 0;
const TX: usize = 1;
const RX_BUFFER: u64 = BUFFERS;
const RX_BUFFER_SIZE: u32 = 4096;
const TX_BUFFER: u64 = BUFFERS + 0x80_0000;

/// A guest's driver with one socket's worth of bookkeeping.
struct Guest {
    machine: Machine<Vsock>,
    ports: Ports,
    /// Bytes received, which the guest says it has used.
    received: u32,
    /// What the device said last of its own buffer.
    host_forwarded: u32,
    sent: u32,
    rx_buffers: u64,
}

impl Guest {
    fn new() -> Guest {
        let mut guest = Guest::without_buffers();
        guest.add_buffers(64);
        guest
    }

    fn without_buffers() -> Guest {
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

    fn add_buffers(&mut self, count: usize) {
        for _ in 0..count {
            self.add_rx();
        }
        self.machine.queues[RX].notify();
    }

    fn add_rx(&mut self) {
        let size = u64::from(RX_BUFFER_SIZE);
        let at = RX_BUFFER + size * (self.rx_buffers % 128);
        self.rx_buffers += 1;
        self.machine.queues[RX].add(&[(at, RX_BUFFER_SIZE, true)]);
    }

    fn header(&self, operation: Operation, length: u32) -> Header {
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

    fn send_raw(&mut self, header: &Header, data: &[u8]) {
        self.machine.write(TX_BUFFER, &header.bytes());
        self.machine.write(TX_BUFFER + 0x1000, data);
        let mut parts = vec![(TX_BUFFER, HEADER_SIZE as u32, false)];
        // As newer Linux does: a descriptor a page.
        for (index, page) in data.chunks(4096).enumerate() {
            let at = TX_BUFFER + 0x1000 * (index as u64 + 1);
            parts.push((at, page.len() as u32, false));
        }
        self.machine.queues[TX].run(&parts);
    }

    fn send(&mut self, operation: Operation) {
        let header = self.header(operation, 0);
        self.send_raw(&header, &[]);
    }

    fn shutdown(&mut self, flags: u32) {
        let mut header = self.header(Operation::Shutdown, 0);
        header.flags = flags;
        self.send_raw(&header, &[]);
    }

    fn send_data(&mut self, data: &[u8]) {
        let header = self.header(Operation::Data, data.len() as u32);
        self.sent = self.sent.wrapping_add(data.len() as u32);
        self.send_raw(&header, data);
    }

    /// The next packet from the device.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        wait_for("a packet", || self.try_receive())
    }

    fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
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

    fn expect_operation(&mut self, operation: Operation) -> Header {
        let (header, data) = self.receive();
        assert_eq!(header.operation, Some(operation), "{header:?}");
        assert_eq!(header.destination_cid, GUEST_CID);
        assert!(data.is_empty() || operation == Operation::Data);
        header
    }

    /// Both may be told at once, or one after the other.
    fn expect_shutdown_of_both(&mut self) {
        let mut flags = 0;
        while flags != SHUTDOWN_BOTH {
            flags |= self.expect_operation(Operation::Shutdown).flags;
        }
    }

    fn assert_silent(&mut self) {
        std::thread::sleep(Duration::from_millis(50));
        let packet = self.try_receive();
        assert!(packet.is_none(), "{packet:?}");
        assert_eq!(self.machine.interrupt.failure(), None);
    }

    fn connect(&mut self) -> UnixStream {
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

    /// Sends all of `data`, a slow host or not, as far as credit allows at a time.
    fn send_all(&mut self, mut data: &[u8]) {
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

/// Bytes in which no piece looks like another.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut step = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as u8
    };
    (0..length).map(|_| step()).collect()
}

#[test]
fn configuration_and_features() {
    let (vsock, _) = Vsock::new(GUEST_CID).unwrap();
    let mut cid = [0; 8];
    vsock.read_config(0, &mut cid);
    assert_eq!(u64::from_le_bytes(cid), GUEST_CID);
    assert_eq!(vsock.device_type(), 19);
    assert_ne!(vsock.features() & 1 << 32, 0);
    for reserved in [0, 1, 2, u64::from(u32::MAX), u64::MAX] {
        assert!(Vsock::new(reserved).is_err());
    }
}

#[test]
fn bytes_go_both_ways() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.send_data(b"from the guest");
    let mut bytes = [0; 14];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"from the guest");

    host.write_all(b"from the host").unwrap();
    let (header, data) = guest.receive();
    assert_eq!(header.operation, Some(Operation::Data));
    assert_eq!(data, b"from the host");
    assert_eq!(header.forwarded, 14);
    assert!(guest.machine.interrupt.signals(RX) > 0);
    assert!(guest.machine.interrupt.signals(TX) > 0);
}

#[test]
fn a_header_and_its_data_can_share_a_descriptor() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let header = guest.header(Operation::Data, 5);
    let packet = [&header.bytes()[..], b"joint"].concat();
    guest.machine.write(TX_BUFFER, &packet);
    guest.machine.queues[TX].run(&[(TX_BUFFER, packet.len() as u32, false)]);
    let mut bytes = [0; 5];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"joint");
}

#[test]
fn what_the_host_writes_before_the_guest_connects_arrives() {
    let mut guest = Guest::new();
    let mut host = guest.ports.expect(PORT).unwrap();
    host.write_all(b"early").unwrap();
    drop(host);
    guest.send(Operation::Request);
    guest.expect_operation(Operation::Response);
    let (_, data) = guest.receive();
    assert_eq!(data, b"early");
    guest.expect_shutdown_of_both();
}

#[test]
fn ports_are_expected_once() {
    let mut guest = Guest::new();
    let host = guest.ports.expect(PORT).unwrap();
    let again = guest.ports.expect(PORT).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    let any = guest.ports.expect(u32::MAX).unwrap_err();
    assert_eq!(any.kind(), io::ErrorKind::InvalidInput);

    guest.send(Operation::Request);
    guest.expect_operation(Operation::Response);
    let mut second = guest.header(Operation::Request, 0);
    second.source_port += 1;
    guest.send_raw(&second, &[]);
    let reset = guest.expect_operation(Operation::Reset);
    assert_eq!(reset.destination_port, GUEST_PORT + 1);
    drop(host);

    let ports = guest.ports.clone();
    for port in 0..MAX_CONNECTIONS as u32 {
        // The ends don't matter: it is the table that must have a bound.
        drop(ports.expect(100_000 + port).unwrap());
    }
    let full = ports.expect(1).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::QuotaExceeded);
    drop(guest);
    let gone = ports.expect(1).unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::NotConnected);
}

#[test]
fn a_slow_reader_slows_the_guest_and_loses_nothing() {
    const SIZE: usize = 8 << 20;
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let mut all = Vec::with_capacity(SIZE);
        let mut piece = vec![0; 100_000];
        loop {
            match host.read(&mut piece).unwrap() {
                0 => return all,
                count => all.extend_from_slice(&piece[..count]),
            }
        }
    });
    let data = pattern(SIZE);
    guest.send_all(&data);
    // And closes at once, as a process does that exits.
    guest.shutdown(SHUTDOWN_BOTH);
    while guest.receive().0.operation != Some(Operation::Reset) {}
    let all = reader.join().unwrap();
    assert_eq!(all.len(), SIZE);
    assert!(all == data);
}

#[test]
fn the_answer_to_a_close_waits_until_all_is_delivered() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let data = pattern(RECEIVE_WINDOW as usize + (64 << 10));
    guest.send_all(&data);
    while guest.sent.wrapping_sub(guest.host_forwarded) < RECEIVE_WINDOW {
        // Until both the socket and the window are full.
        let room = RECEIVE_WINDOW - guest.sent.wrapping_sub(guest.host_forwarded);
        guest.send_data(&data[..room.min(64 << 10) as usize]);
        while guest.try_receive().is_some() {}
    }
    let total = guest.sent as usize;
    guest.shutdown(SHUTDOWN_BOTH);
    guest.assert_silent();
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), total);
    while guest.receive().0.operation != Some(Operation::Reset) {}
}

#[test]
fn an_abort_delivers_what_was_sent_before() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let data = pattern(RECEIVE_WINDOW as usize);
    guest.send_all(&data);
    guest.send(Operation::Reset);
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert!(all == data);
    let error = host.write_all(b"anyone?").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn half_closes_go_through() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.send_data(b"question");
    guest.shutdown(SHUTDOWN_SEND);
    let mut question = String::new();
    host.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");

    let answer = pattern(40_000);
    host.write_all(&answer).unwrap();
    host.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    loop {
        let (header, data) = guest.receive();
        match header.operation {
            Some(Operation::Data) => received.extend(data),
            Some(Operation::Shutdown) => {
                assert_eq!(header.flags, SHUTDOWN_SEND);
                break;
            }
            _ => panic!("{header:?}"),
        }
    }
    assert!(received == answer);
    // The guest's last word, and the answer that lets it forget the connection.
    guest.shutdown(SHUTDOWN_BOTH);
    guest.expect_operation(Operation::Reset);
}

#[test]
fn a_guest_that_reads_no_more_breaks_the_hosts_pipe() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    guest.shutdown(SHUTDOWN_RECEIVE);
    let error = wait_for("a broken pipe", || host.write_all(&[0]).err());
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    guest.send_data(b"still talking");
    let mut bytes = [0; 13];
    host.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still talking");
}

#[test]
fn a_host_that_reads_no_more_is_announced() {
    let mut guest = Guest::new();
    let host = guest.connect();
    host.shutdown(Shutdown::Read).unwrap();
    guest.send_data(b"unheard");
    let shutdown = guest.expect_operation(Operation::Shutdown);
    assert_eq!(shutdown.flags, SHUTDOWN_RECEIVE);
    // More of it is swallowed, whatever the credit was.
    for _ in 0..8 {
        guest.send_data(&[0; 64 << 10]);
    }
    assert_eq!(guest.machine.interrupt.failure(), None);
}

#[test]
fn a_host_that_goes_is_announced() {
    let mut guest = Guest::new();
    let host = guest.connect();
    drop(host);
    guest.expect_shutdown_of_both();
    // Linux answers with a reset, and no more is said.
    guest.send(Operation::Reset);
    guest.assert_silent();
}

#[test]
fn a_close_with_unread_data_is_an_end_of_file_for_the_host() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    host.write_all(&pattern(150_000)).unwrap();
    guest.shutdown(SHUTDOWN_BOTH);
    while guest.receive().0.operation != Some(Operation::Reset) {}
    let mut byte = [0];
    assert_eq!(host.read(&mut byte).unwrap(), 0);
}

#[test]
fn the_guests_credit_is_kept_to() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let data = pattern(150_000);
    host.write_all(&data).unwrap();
    let mut received = Vec::new();
    // The guest uses nothing: the device may send a window and then has to ask.
    loop {
        let (header, data) = guest.receive();
        guest.received = 0;
        match header.operation {
            Some(Operation::Data) => received.extend(data),
            Some(Operation::CreditRequest) => break,
            _ => panic!("{header:?}"),
        }
    }
    assert_eq!(received.len(), GUEST_WINDOW as usize);
    // An answer without news isn't followed by another question.
    guest.send(Operation::CreditUpdate);
    guest.assert_silent();
    guest.received = GUEST_WINDOW;
    guest.send(Operation::CreditUpdate);
    while received.len() < data.len() {
        let (header, data) = guest.receive();
        match header.operation {
            Some(Operation::Data) => received.extend(data),
            Some(Operation::CreditRequest) => guest.send(Operation::CreditUpdate),
            _ => panic!("{header:?}"),
        }
    }
    assert!(received == data);
}

#[test]
fn credit_is_told_when_asked_for() {
    let mut guest = Guest::new();
    let _host = guest.connect();
    guest.send_data(&[0; 1000]);
    guest.send(Operation::CreditRequest);
    let update = guest.expect_operation(Operation::CreditUpdate);
    assert_eq!(update.forwarded, 1000);
}

#[test]
fn data_beyond_the_credit_ends_the_connection() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let data = pattern(64 << 10);
    // The socket takes some, the window the rest; nobody reads.
    let reset = loop {
        guest.send_data(&data);
        if let Some((header, _)) = guest.try_receive()
            && header.operation == Some(Operation::Reset)
        {
            break header;
        }
        assert!(guest.sent < 16 << 20, "all of it was taken");
    };
    assert_eq!(reset.destination_port, GUEST_PORT);
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert!(all.len() >= RECEIVE_WINDOW as usize && all.len() < guest.sent as usize);
}

#[test]
fn a_blocked_reader_blocks_nobody_else() {
    let mut guest = Guest::new();
    let _blocked = guest.connect();
    guest.send_all(&pattern(RECEIVE_WINDOW as usize));

    let mut other = guest.ports.expect(PORT + 1).unwrap();
    other.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut request = guest.header(Operation::Request, 0);
    request.destination_port = PORT + 1;
    guest.send_raw(&request, &[]);
    while guest.receive().0.operation != Some(Operation::Response) {}
    let mut data = guest.header(Operation::Data, 5);
    data.destination_port = PORT + 1;
    guest.send_raw(&data, b"alive");
    let mut bytes = [0; 5];
    other.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"alive");
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::without_buffers();
    let mut first = guest.ports.expect(PORT).unwrap();
    let mut second = guest.ports.expect(PORT + 1).unwrap();
    for port in [PORT, PORT + 1] {
        let mut request = guest.header(Operation::Request, 0);
        request.destination_port = port;
        guest.send_raw(&request, &[]);
    }
    first.write_all(&[1; 60_000]).unwrap();
    second.write_all(b"me too").unwrap();
    guest.add_buffers(64);
    // The first has 15 packets' worth, the second one.
    let mut before = 0;
    loop {
        let (header, data) = guest.receive();
        match header.source_port {
            PORT => before += usize::from(!data.is_empty()),
            _ if data.is_empty() => {}
            _ => break,
        }
    }
    assert!(
        before < 3,
        "the second waited for {before} packets of the first"
    );
}

#[test]
fn strange_packets_are_answered_with_resets() {
    let mut guest = Guest::new();
    let request = guest.header(Operation::Request, 0);
    let strange = [
        // A port that isn't expected.
        request,
        Header {
            destination_port: u32::MAX,
            ..request
        },
        Header {
            destination_cid: 7,
            ..request
        },
        // Seqpacket, which wasn't offered.
        Header { kind: 2, ..request },
        Header {
            operation: None,
            ..request
        },
        // Connections that don't exist.
        guest.header(Operation::Response, 0),
        guest.header(Operation::Shutdown, 0),
        guest.header(Operation::CreditUpdate, 0),
        guest.header(Operation::CreditRequest, 0),
        guest.header(Operation::Data, 0),
    ];
    for header in strange {
        guest.send_raw(&header, &[]);
        let reset = guest.expect_operation(Operation::Reset);
        assert_eq!(reset.source_cid, header.destination_cid);
        assert_eq!(reset.source_port, header.destination_port);
        assert_eq!(reset.destination_port, header.source_port);
    }
    guest.send(Operation::Reset);
    let mut foreign = request;
    foreign.source_cid = 9;
    guest.send_raw(&foreign, &[]);
    guest.assert_silent();
}

#[test]
fn operations_out_of_turn_end_the_connection() {
    let wrong = [Some(Operation::Request), Some(Operation::Response), None];
    for operation in wrong {
        let mut guest = Guest::new();
        let mut host = guest.connect();
        let mut header = guest.header(Operation::Request, 0);
        header.operation = operation;
        guest.send_raw(&header, &[]);
        guest.expect_operation(Operation::Reset);
        let mut byte = [0];
        assert_eq!(host.read(&mut byte).unwrap(), 0);
    }
    let mut guest = Guest::new();
    let _host = guest.connect();
    guest.shutdown(SHUTDOWN_SEND);
    guest.send_data(b"I said I wouldn't");
    guest.expect_operation(Operation::Reset);
}

#[test]
fn a_guest_that_takes_no_resets_is_not_listened_to() {
    let mut guest = Guest::without_buffers();
    let header = guest.header(Operation::Data, 0);
    guest.machine.write(TX_BUFFER, &header.bytes());
    for _ in 0..128 {
        guest.machine.queues[TX].add(&[(TX_BUFFER, HEADER_SIZE as u32, false)]);
    }
    guest.machine.queues[TX].notify();
    let mut taken = 0;
    wait_for("the device to stop taking packets", || {
        taken += usize::from(guest.machine.queues[TX].try_used().is_some());
        (taken == 64).then_some(())
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(guest.machine.queues[TX].try_used().is_none());
    guest.add_buffers(64);
    for _ in 0..128 {
        guest.expect_operation(Operation::Reset);
    }
    for _ in 64..128 {
        guest.machine.queues[TX].used();
    }
}

#[test]
fn broken_queues_stop_the_device() {
    let new = || Vsock::new(GUEST_CID).unwrap().0;
    break_queue(TX, new, |machine| {
        machine.write(TX_BUFFER, &[0; HEADER_SIZE]);
        machine.queues[TX].run(&[(TX_BUFFER, HEADER_SIZE as u32, false)]);
    });
}

#[test]
fn chains_that_are_no_packets_stop_the_device() {
    let header = HEADER_SIZE as u32;
    let wrong: [&[Part]; 3] = [
        &[(TX_BUFFER, header - 1, false)],
        // The header says 100 bytes.
        &[(TX_BUFFER, header, false), (TX_BUFFER, 99, false)],
        &[(TX_BUFFER, header, false), (TX_BUFFER, 100, true)],
    ];
    for parts in wrong {
        let mut guest = Guest::new();
        let data = guest.header(Operation::Data, 100);
        guest.machine.write(TX_BUFFER, &data.bytes());
        guest.machine.queues[TX].add(parts);
        guest.machine.queues[TX].notify();
        guest.machine.interrupt.wait_for_failure();
    }
    let no_room: [&[Part]; 3] = [
        &[(RX_BUFFER, header, true)],
        &[(RX_BUFFER, 4096, false)],
        &[(RX_BUFFER, 4096, false), (RX_BUFFER, 4096, true)],
    ];
    for parts in no_room {
        let (device, _ports) = Vsock::new(GUEST_CID).unwrap();
        let mut machine = Machine::new(device);
        machine.queues[RX].add(parts);
        // Something to answer.
        let mut data = [0; HEADER_SIZE];
        data[..8].copy_from_slice(&GUEST_CID.to_le_bytes());
        machine.write(TX_BUFFER, &data);
        machine.queues[TX].add(&[(TX_BUFFER, header, false)]);
        machine.queues[TX].notify();
        machine.interrupt.wait_for_failure();
    }
}

#[test]
fn a_reset_ends_connections_and_keeps_expectations() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let mut expected = guest.ports.expect(PORT + 1).unwrap();
    guest.machine.device.reset();
    let mut bytes = Vec::new();
    host.read_to_end(&mut bytes).unwrap();
    assert!(bytes.is_empty());

    guest.machine.activate();
    guest.rx_buffers = 0;
    guest.add_buffers(64);
    let mut request = guest.header(Operation::Request, 0);
    request.destination_port = PORT + 1;
    guest.send_raw(&request, &[]);
    guest.expect_operation(Operation::Response);
    expected.write_all(b"hello").unwrap();
    assert_eq!(guest.receive().1, b"hello");
}

#[test]
fn the_end_of_the_device_is_an_end_of_file() {
    let mut guest = Guest::new();
    let mut connected = guest.connect();
    let mut expected = guest.ports.expect(PORT + 1).unwrap();
    drop(guest);
    for host in [&mut connected, &mut expected] {
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).unwrap();
    }
}

#[test]
fn queues_that_are_not_set_up_are_refused() {
    let (device, _ports) = Vsock::new(GUEST_CID).unwrap();
    let mut machine = Machine::new(device);
    machine.device.reset();
    let mut activation = machine.activation();
    activation.queues[1].queue = virtio_queue::QueueT::new(128).unwrap();
    let error = machine.device.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::QueueNotReady(1)), "{error}");
    let mut activation = machine.activation();
    activation.queues.pop();
    let error = machine.device.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::QueueNotReady(2)), "{error}");
}
