//! A pair of queues on a socket in the tap's place: what happens when either side is slow.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::time::Duration;

use super::*;
use crate::devices::virtio::net::header::MAX_PACKET;
use crate::devices::virtio::net::tap::TapQueue;
use crate::devices::virtio::net::transmit::Transmitter;

const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

/// A device with one pair of queues and nothing else.
pub(super) struct Bare {
    queue: Arc<TapQueue>,
    name: &'static str,
    thread: Option<DeviceThread>,
}

impl VirtioDevice for Bare {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES | MERGE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let features = activation.features;
        let queues = queue::start_queues(activation)?;
        let tap = Arc::clone(&self.queue);
        let work = move |stop: &_| Pair::new(&tap, queues, &memory, features).run(stop);
        self.thread = Some(DeviceThread::spawn(self.name, interrupt, work)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.thread = None;
    }
}

/// A driver, and the other end. As a tap does, the socket keeps packets apart.
pub(super) fn bare(name: &'static str, features: u64) -> (Driver<Bare>, File) {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `ends` has room for the two descriptors, which are nobody else's.
    let [device, peer] = unsafe {
        assert_eq!(
            libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()),
            0
        );
        ends.map(|end| File::from_raw_fd(end))
    };
    let device = Bare {
        queue: Arc::new(TapQueue::new(device).unwrap()),
        name,
        thread: None,
    };
    (Driver::new(device, features), peer)
}

/// A packet as the tap gives it.
fn packet(frame: &[u8]) -> Vec<u8> {
    [&[0; header::SIZE][..], frame].concat()
}

/// Waits for a packet that the guest sent. Returns it without its header.
pub(super) fn sent(mut peer: &File) -> Vec<u8> {
    let mut bytes = vec![0; header::SIZE + MAX_PACKET];
    let count = wait_for("a packet", || peer.read(&mut bytes).ok());
    bytes.truncate(count);
    bytes.split_off(header::SIZE)
}

/// How long the thread called `name` has been on a processor.
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

/// The thread waits rather than looks again and again.
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
    // The driver waits for the first used chain, which is one of several that come together.
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

/// What a driver can send, at a tap of the test's choice.
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
