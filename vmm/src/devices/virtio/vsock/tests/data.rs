//! Tests connections, data, credit and how they end.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use super::guest::*;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::vsock::connection::RECEIVE_WINDOW;
use crate::devices::virtio::vsock::packet::*;
use crate::devices::virtio::vsock::*;

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
        // The ends don't matter: the test is about the table's limit.
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
    // And closes at once, like a process that exits.
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
    let total = fill(&mut guest);
    guest.shutdown(SHUTDOWN_BOTH);
    guest.assert_silent();
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), total);
    while guest.receive().0.operation != Some(Operation::Reset) {}
}

/// Sends until both the host's socket and the window are full. Returns how many bytes that was.
fn fill(guest: &mut Guest) -> usize {
    let data = pattern(RECEIVE_WINDOW as usize + (64 << 10));
    guest.send_all(&data);
    while guest.sent.wrapping_sub(guest.host_forwarded) < RECEIVE_WINDOW {
        let room = RECEIVE_WINDOW - guest.sent.wrapping_sub(guest.host_forwarded);
        guest.send_data(&data[..room.min(64 << 10) as usize]);
        while guest.try_receive().is_some() {}
    }
    guest.sent as usize
}

#[test]
fn a_device_that_ends_leaves_what_was_sent_to_the_host() {
    let mut guest = Guest::new();
    let mut host = guest.connect();
    let total = fill(&mut guest);
    drop(guest);
    let mut all = Vec::new();
    host.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), total);
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
    // The guest's last packet, and the answer that lets it forget the connection.
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
    // More of it is discarded, whatever the credit was.
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
    // Linux answers with a reset, and that is the last packet.
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
    // The guest uses nothing: the device may send one window and then has to ask.
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
fn a_port_that_is_forgotten_is_an_end_of_file_and_free() {
    let mut guest = Guest::new();
    let mut forgotten = guest.ports.expect(PORT + 1).unwrap();
    guest.ports.forget(PORT + 1);
    forgotten.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(forgotten.read(&mut [0]).unwrap(), 0);
    let mut request = guest.header(Operation::Request, 0);
    request.destination_port = PORT + 1;
    guest.send_raw(&request, &[]);
    guest.expect_operation(Operation::Reset);
    guest.ports.expect(PORT + 1).unwrap();
    // A connection that was made isn't forgotten, and its port is free.
    let mut connected = guest.connect();
    guest.ports.forget(PORT);
    guest.send_all(b"still there");
    let mut bytes = [0; 11];
    connected.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"still there");
    guest.ports.expect(PORT).unwrap();
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
