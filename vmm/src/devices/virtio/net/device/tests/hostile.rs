//! Tests what a driver can do wrong.

use virtio_queue::QueueT;

use super::namespace::in_namespace;
use super::pair::{bare, sent};
use super::*;
use crate::devices::virtio::net::bare::Bare;

const NEEDS_CHECKSUM: Header = Header {
    flags: 1,
    gso_type: 0,
    header_length: 0,
    gso_size: 0,
    checksum_start: 34,
    checksum_offset: 6,
    buffers: 0,
};

#[test]
fn packets_that_make_no_sense_are_dropped() {
    let checksum = feature(VIRTIO_NET_F_CSUM);
    let (mut driver, peer) = bare("nonsense", checksum);
    let frame = pattern(100);
    let plain = Header::default();
    for (header, length) in [
        (plain, 0),
        (plain, 13),
        (NEEDS_CHECKSUM, 41),
        (
            Header {
                checksum_start: u16::MAX,
                checksum_offset: u16::MAX,
                ..NEEDS_CHECKSUM
            },
            100,
        ),
        // Segments that weren't negotiated.
        (
            Header {
                gso_type: 1,
                gso_size: 50,
                ..NEEDS_CHECKSUM
            },
            100,
        ),
        (
            Header {
                gso_type: 0xff,
                ..plain
            },
            100,
        ),
    ] {
        driver.send(TX, header, &frame[..length]);
    }
    // One byte more than the longest packet.
    driver.machine.write(SENT, &plain.to_bytes());
    let parts = [(SENT, 12, false), (RECEIVED, 65554, false)];
    driver.machine.queues[TX].run(&parts);

    driver.send(TX, NEEDS_CHECKSUM, &frame[..42]);
    assert_eq!(sent(&peer), frame[..42]);
    assert_eq!(driver.machine.interrupt.failure(), None);
}

#[test]
fn the_host_gets_a_header_of_our_own() {
    use std::io::Read;
    let (mut driver, mut peer) = bare("header", feature(VIRTIO_NET_F_CSUM));
    let header = Header {
        flags: 0xff,
        header_length: 5000,
        gso_size: 9,
        buffers: 77,
        ..NEEDS_CHECKSUM
    };
    driver.send(TX, header, &pattern(60));
    let expected = Header {
        header_length: 60,
        ..NEEDS_CHECKSUM
    };
    let mut bytes = [0; 200];
    assert_eq!(peer.read(&mut bytes).unwrap(), 72);
    assert_eq!(bytes[..12], expected.to_bytes());
    assert_eq!(bytes[12..72], pattern(60));
}

#[test]
fn chains_that_are_no_packets_stop_the_device() {
    let cases: [(usize, &[Part], &str); 5] = [
        (TX, &[(SENT, 11, false)], "header"),
        (TX, &[(SENT, 100, false), (SENT, 100, true)], "write"),
        (TX, &[(SENT, 100, true)], "write"),
        (RX, &[(SENT, 100, false), (SENT, 2000, true)], "read"),
        (RX, &[(SENT, 11, true)], "header"),
    ];
    for (queue, parts, expected) in cases {
        let (mut driver, _peer) = bare("chains", 0);
        driver.machine.queues[queue].add(parts);
        driver.machine.queues[queue].notify();
        let why = driver.machine.interrupt.wait_for_failure();
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn broken_queues_stop_the_device() {
    // Dropping the other end would be another failure.
    let peers = std::cell::RefCell::new(Vec::new());
    let new = || {
        let (driver, peer) = bare("broken", 0);
        peers.borrow_mut().push(peer);
        driver.machine.device
    };
    let works = |machine: &mut Machine<Bare>| {
        machine.write(SENT, &[0; 72]);
        machine.queues[TX].run(&[(SENT, 72, false)]);
        let peers = peers.borrow();
        assert_eq!(sent(peers.last().unwrap()), [0; 60]);
    };
    break_queue(RX, new, works);
    break_queue(TX, new, works);
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_broken_control_queue_stops_the_device() {
    in_namespace(|| {
        const CONTROL: usize = 4;
        let features = feature(VIRTIO_NET_F_CTRL_VQ) | feature(VIRTIO_NET_F_MQ);
        for (what, breakage) in BREAKAGES {
            let mut guest = Guest::new(2, features, 2048);
            let queue = &mut guest.driver.machine.queues[CONTROL];
            breakage(queue);
            queue.notify();
            let why = guest.driver.machine.interrupt.wait_for_failure();
            assert!(!why.contains("bug"), "{what}: {why}");
        }
        let mut guest = Guest::new(2, features, 2048);
        let queue = &mut guest.driver.machine.queues[CONTROL];
        queue.add(&[(SENT, 4, false)]);
        queue.notify();
        let why = guest.driver.machine.interrupt.wait_for_failure();
        assert!(why.contains("answer"), "{why}");
    });
}

#[test]
#[ignore = "needs root and /dev/net/tun"]
fn a_driver_may_leave_all_but_the_first_pair_out() {
    in_namespace(|| {
        let features = feature(VIRTIO_NET_F_CTRL_VQ) | feature(VIRTIO_NET_F_MQ);
        let mut guest = Guest::new(3, features, 2048);
        let without = |guest: &mut Guest, missing: &[usize]| {
            guest.driver.machine.device.reset();
            let mut activation = guest.driver.machine.activation();
            for index in missing {
                activation.queues[*index].queue.set_ready(false);
            }
            guest.driver.machine.device.activate(activation)
        };
        without(&mut guest, &[3, 4, 5, 6]).unwrap();
        for (missing, named) in [(&[0, 1][..], 0), (&[0], 0), (&[1], 1)] {
            let refused = without(&mut guest, missing).unwrap_err();
            assert!(matches!(refused, ActivateError::QueueNotReady(n) if n == named));
        }
    });
}
