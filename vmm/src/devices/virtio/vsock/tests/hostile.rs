//! Tests what a driver must not do.

use std::io::Read;
use std::time::Duration;

use super::guest::*;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::vsock::connection::RECEIVE_WINDOW;
use crate::devices::virtio::vsock::packet::*;
use crate::devices::virtio::vsock::*;
use crate::devices::virtio::{ActivateError, VirtioDevice};

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
fn queues_that_are_not_set_up_are_refused() {
    let (device, _ports) = Vsock::new(GUEST_CID).unwrap();
    let mut machine = Machine::new(device);
    machine.device.reset();
    let mut activation = machine.activation();
    activation.queues[1].queue = virtio_queue::QueueT::new(128).unwrap();
    let error = machine.device.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::QueueNotReady(1)), "{error}");
    let mut activation = machine.activation();
    activation.queues.truncate(1);
    let error = machine.device.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::QueueNotReady(1)), "{error}");
    // The event queue isn't used, and QEMU keeps it.
    let mut activation = machine.activation();
    activation.queues.truncate(2);
    machine.device.activate(activation).unwrap();
}
