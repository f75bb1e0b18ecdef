//! Tests a pair of queues on a socket in the tap's place: what happens when either side is slow.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::*;
use crate::devices::virtio::net::bare::Bare;
use crate::devices::virtio::net::header::MAX_PACKET;
use crate::devices::virtio::net::transmit::Transmitter;
use crate::devices::virtio::throttle::{Rate, RateLimit};

const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

/// Makes a driver, and the other end.
pub(super) fn bare(name: &'static str, features: u64) -> (Driver<Bare>, File) {
    throttled(name, features, Default::default())
}

/// Does the same, with what the guest may receive and send.
fn throttled(name: &'static str, features: u64, throttles: [Throttle; 2]) -> (Driver<Bare>, File) {
    let (mut device, peer) = Bare::new(name);
    device.throttles = throttles;
    (Driver::new(device, features), peer)
}

/// Builds a packet in the form in which the tap delivers it.
fn packet(frame: &[u8]) -> Vec<u8> {
    [&[0; header::SIZE][..], frame].concat()
}

/// Waits for a packet from the guest. Returns it without its header.
pub(super) fn sent(mut peer: &File) -> Vec<u8> {
    let mut bytes = vec![0; header::SIZE + MAX_PACKET];
    let count = wait_for("a packet", || peer.read(&mut bytes).ok());
    bytes.truncate(count);
    bytes.split_off(header::SIZE)
}

/// Returns how much processor time the thread called `name` has used.
fn busy_time(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    for task in tasks {
        let task = task.unwrap().path();
        let read = |file: &str| std::fs::read_to_string(task.join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let stat = read("schedstat");
            let nanoseconds = stat.split(' ').next().unwrap().parse().unwrap();
            return Duration::from_nanos(nanoseconds);
        }
    }
    panic!("no thread is called {name}");
}

/// Checks that the thread waits instead of polling over and over.
fn assert_waits(name: &str) {
    let before = busy_time(name);
    std::thread::sleep(Duration::from_millis(200));
    let spent = busy_time(name) - before;
    assert!(spent < Duration::from_millis(20), "{spent:?}");
}

#[test]
fn a_full_host_holds_the_guest_up_and_loses_nothing() {
    const COUNT: u8 = 80;
    let (mut driver, peer) = bare("full-host", 0);
    for number in 0..COUNT {
        let at = SENT + u64::from(number) * 0x200;
        driver.machine.write(at, &[0; header::SIZE]);
        driver.machine.write(at + 0x100, &[number; 64]);
        let parts = [
            (at, header::SIZE as u32, false),
            (at + 0x100, 64, false),
            (RECEIVED, 40_000, false),
        ];
        driver.machine.queues[TX].add(&parts);
    }
    driver.machine.queues[TX].notify();
    std::thread::sleep(Duration::from_millis(50));
    assert_waits("full-host");
    let mut done = 0;
    while driver.machine.queues[TX].try_used().is_some() {
        done += 1;
    }
    assert!(done < COUNT, "the socket takes them all");
    for number in 0..COUNT {
        let frame = sent(&peer);
        assert_eq!(frame.len(), 64 + 40_000);
        assert_eq!(frame[..64], [number; 64]);
    }
    for _ in done..COUNT {
        driver.machine.queues[TX].used();
    }
    assert_eq!(driver.machine.interrupt.failure(), None);
}

#[test]
fn a_guest_without_buffers_is_waited_for() {
    let (mut driver, mut peer) = bare("no-buffers", 0);
    for number in 0..5 {
        peer.write_all(&packet(&[number; 100])).unwrap();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_waits("no-buffers");
    driver.offer(RX, 2, 2000);
    for number in 0..5 {
        let (header, frame) = driver.receive(RX);
        assert_eq!(header.buffers, 1);
        assert_eq!(frame, [number; 100]);
    }
    assert_waits("no-buffers");
}

/// A rate at which the fifth packet waits for a twentieth of a second, and so on.
const FOUR_AND_TWENTY_A_SECOND: RateLimit = RateLimit {
    bytes: None,
    operations: Some(Rate {
        per_second: 20,
        burst: 4,
    }),
};

fn send_ten(driver: &mut Driver<Bare>, peer: &File) {
    for number in 0..10 {
        let at = SENT + u64::from(number) * 0x1000;
        driver.add(TX, at, Header::default(), &[number; 64]);
    }
    driver.machine.queues[TX].notify();
    for number in 0..10 {
        assert_eq!(sent(peer), [number; 64]);
        driver.machine.queues[TX].used();
    }
}

fn receive_ten(driver: &mut Driver<Bare>, mut peer: &File) {
    for number in 0..10 {
        peer.write_all(&packet(&[number; 100])).unwrap();
    }
    for number in 0..10 {
        assert_eq!(driver.receive(RX).1, [number; 100]);
    }
}

#[test]
fn more_packets_than_allowed_take_their_time() {
    let throttle = || Throttle::new(FOUR_AND_TWENTY_A_SECOND);
    let (mut driver, peer) = throttled("slow", 0, [throttle(), throttle()]);
    driver.offer(RX, 20, 2000);
    for ten in [send_ten, receive_ten] {
        let begin = Instant::now();
        ten(&mut driver, &peer);
        assert!(begin.elapsed() >= Duration::from_millis(300));
    }
}

#[test]
fn a_direction_that_is_held_waits_and_the_other_goes_on() {
    let bytes = Some(Rate::per_second(1));
    let held = || {
        Throttle::new(RateLimit {
            bytes,
            operations: None,
        })
    };
    // The first packet passes, and is owed.
    let (mut driver, mut peer) = throttled("held-in", 0, [held(), Throttle::default()]);
    driver.offer(RX, 20, 2000);
    for _ in 0..2 {
        peer.write_all(&packet(&[1; 100])).unwrap();
    }
    driver.receive(RX);
    send_ten(&mut driver, &peer);
    assert_waits("held-in");
    assert_eq!(driver.machine.queues[RX].try_used(), None);

    let (mut driver, peer) = throttled("held-out", 0, [Throttle::default(), held()]);
    driver.offer(RX, 20, 2000);
    for _ in 0..2 {
        driver.add(TX, SENT, Header::default(), &[1; 64]);
    }
    driver.machine.queues[TX].notify();
    assert_eq!(sent(&peer), [1; 64]);
    driver.machine.queues[TX].used();
    receive_ten(&mut driver, &peer);
    assert_waits("held-out");
    assert_eq!(driver.machine.queues[TX].try_used(), None);
    // Held for a minute, it stops at once.
    let begin = Instant::now();
    driver.machine.device.reset();
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(driver.machine.interrupt.failure(), None);
}

#[test]
fn a_packet_takes_as_many_buffers_as_it_needs() {
    let (mut driver, mut peer) = bare("merge", MERGE);
    driver.offer(RX, 200, 512);
    for (length, buffers) in [(14, 1), (500, 1), (501, 2), (1012, 2), (1013, 3)] {
        peer.write_all(&packet(&pattern(length))).unwrap();
        let (header, frame) = driver.receive(RX);
        assert_eq!(header.buffers, buffers, "{length}");
        assert!(frame == pattern(length));
    }
    for _ in 0..10 {
        peer.write_all(&packet(&pattern(MAX_PACKET))).unwrap();
        let (header, frame) = driver.receive(RX);
        assert_eq!(usize::from(header.buffers), (MAX_PACKET + 12).div_ceil(512));
        assert!(frame == pattern(MAX_PACKET));
    }
}

#[test]
fn a_packet_that_does_not_fit_waits_for_more_buffers() {
    let (mut driver, mut peer) = bare("spill", MERGE);
    driver.offer(RX, 3, 100);
    peer.write_all(&packet(&pattern(1000))).unwrap();
    peer.write_all(&packet(&[5; 50])).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_waits("spill");
    assert_eq!(driver.machine.queues[RX].try_used(), None);
    driver.offer(RX, 4, 100);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(driver.machine.queues[RX].try_used(), None);
    driver.offer(RX, 4, 100);
    let (header, frame) = driver.receive(RX);
    assert_eq!(header.buffers, 11);
    assert!(frame == pattern(1000));
    assert_eq!(driver.receive(RX).1, [5; 50]);
}

#[test]
fn a_packet_too_long_for_a_driver_that_does_not_merge_is_dropped() {
    let (mut driver, mut peer) = bare("no-merge", 0);
    driver.offer(RX, 4, 112);
    peer.write_all(&packet(&[1; 101])).unwrap();
    peer.write_all(&packet(&[2; 100])).unwrap();
    peer.write_all(&packet(&[3; 99])).unwrap();
    assert_eq!(driver.receive(RX).1, [2; 100]);
    assert_eq!(driver.receive(RX).1, [3; 99]);
}

#[test]
fn a_driver_that_checks_by_itself_hears_nothing_of_checksums() {
    const VALID: u8 = 2;
    for (features, flags) in [(0, 0), (1 << VIRTIO_NET_F_GUEST_CSUM, VALID)] {
        let (mut driver, mut peer) = bare("checksums", features);
        driver.offer(RX, 1, 1000);
        let mut bytes = packet(&[1; 60]);
        bytes[0] = VALID;
        peer.write_all(&bytes).unwrap();
        assert_eq!(driver.receive(RX).0.flags, flags);
    }
}

#[test]
fn events_that_nobody_waits_for_are_left_out() {
    let (mut driver, mut peer) = bare("events", MERGE);
    driver.machine.device.reset();
    driver.machine.features = BASIC_FEATURES | MERGE;
    driver.machine.interrupt = Arc::default();
    driver.machine.activate();
    driver.offered.clear();
    driver.offer(RX, 100, 512);
    // The driver waits for the first used chain, one of several that come together.
    peer.write_all(&packet(&pattern(2000))).unwrap();
    assert_eq!(driver.receive(RX).0.buffers, 4);
    wait_for("an interrupt", || {
        (driver.machine.interrupt.signals(RX) == 1).then_some(())
    });
    for _ in 0..3 {
        peer.write_all(&packet(&pattern(2000))).unwrap();
        driver.receive(RX);
    }
    driver.machine.device.reset();
    assert_eq!(driver.machine.interrupt.signals(RX), 1);
}

#[test]
fn the_end_of_the_tap_is_a_failure_that_says_so() {
    let (driver, peer) = bare("gone", 0);
    drop(peer);
    let why = driver.machine.interrupt.wait_for_failure();
    assert_eq!(why, "gone: the host's interface is gone");
}

/// Makes a transmitter on the driver's queue, for a tap of the test's choice.
fn transmitter<'m>(driver: &mut Driver<Bare>, memory: &'m GuestMemoryMmap) -> Transmitter<'m> {
    driver.machine.device.reset();
    let [_, queue] = queue::start_queues(driver.machine.activation()).unwrap();
    Transmitter::new(queue, memory, 0)
}

#[test]
fn what_is_sent_while_the_host_goes_away_stays_in_its_queue() {
    let ((mut driver, gone), (other, peer)) = (bare("going", 0), bare("there", 0));
    let memory = Arc::clone(&driver.machine.memory);
    let mut transmitter = transmitter(&mut driver, &memory);
    drop(gone);
    driver.add(TX, SENT, Header::default(), &[7; 64]);
    let sent_to_nobody = transmitter.serve(&driver.machine.device.queue);
    assert!(matches!(sent_to_nobody, Err(Failure::Gone)));
    assert_eq!(driver.machine.queues[TX].try_used(), None);
    transmitter.serve(&other.machine.device.queue).unwrap();
    driver.machine.queues[TX].used();
    assert_eq!(sent(&peer), [7; 64]);
}

#[test]
fn the_driver_hears_of_what_was_done_before_its_queue_broke() {
    let (mut driver, peer) = bare("breaking", 0);
    let memory = Arc::clone(&driver.machine.memory);
    let mut transmitter = transmitter(&mut driver, &memory);
    driver.add(TX, SENT, Header::default(), &[7; 64]);
    driver.machine.queues[TX].add(&[(SENT, 1, false)]);
    let broken = transmitter.serve(&driver.machine.device.queue);
    assert!(matches!(broken, Err(Failure::Queue(_))));
    assert_eq!(sent(&peer), [7; 64]);
    driver.machine.queues[TX].used();
    assert_eq!(driver.machine.interrupt.signals(TX), 1);
}
