//! Tests a disk that may do only so much.

use std::time::{Duration, Instant};

use super::*;
use crate::devices::virtio::throttle::{Rate, RateLimit};

fn limited(image: &File, limit: RateLimit) -> Machine<Block> {
    Machine::new(block(image).with_throttle(Throttle::new(limit)))
}

/// Makes a request available: a flush, or a write of some bytes.
fn add(machine: &mut Machine<Block>, kind: u32, length: u32) {
    machine.write(
        HEADER,
        &[kind.to_le_bytes(), [0; 4], [0; 4], [0; 4]].concat(),
    );
    let parts = [
        (HEADER, 16, false),
        (DATA, length, false),
        (STATUS, 1, true),
    ];
    machine.queues[0].add(&parts);
    machine.queues[0].notify();
}

/// Returns how long ten such requests take.
fn ten(limit: RateLimit, kind: u32, length: u32) -> Duration {
    let mut machine = limited(&image(), limit);
    let begin = Instant::now();
    for _ in 0..10 {
        add(&mut machine, kind, length);
    }
    for _ in 0..10 {
        machine.queues[0].used();
    }
    begin.elapsed()
}

#[test]
fn more_than_it_may_do_takes_its_time() {
    let rate = |per_second, burst| Some(Rate { per_second, burst });
    let operations = RateLimit {
        bytes: None,
        operations: rate(20, 4),
    };
    // The fifth waits for one twentieth of a second, and so on.
    assert!(ten(operations, VIRTIO_BLK_T_FLUSH, 0) >= Duration::from_millis(300));
    let bytes = RateLimit {
        bytes: rate(20 << 10, 4 << 10),
        operations: None,
    };
    assert!(ten(bytes, VIRTIO_BLK_T_OUT, 1024) >= Duration::from_millis(250));
    // What isn't limited isn't held up.
    assert!(ten(bytes, VIRTIO_BLK_T_FLUSH, 0) < TIMEOUT);
}

#[test]
fn a_disk_that_is_held_stops_at_once_and_owes_what_it_owed() {
    let rate = Rate::per_second(1);
    let (bytes, operations) = (Some(rate), None);
    let mut machine = limited(&image(), RateLimit { bytes, operations });
    // The first is as large as it likes. Ranges of zeroes count for what may be written.
    assert_eq!(
        ranges(
            &mut machine,
            VIRTIO_BLK_T_WRITE_ZEROES,
            &[(0, SECTORS as u32, 0)]
        ),
        OK
    );
    for activation in 0..2 {
        add(&mut machine, VIRTIO_BLK_T_FLUSH, 0);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(machine.queues[0].try_used(), None, "{activation}");
        let begin = Instant::now();
        machine.device.reset();
        assert!(begin.elapsed() < TIMEOUT);
        assert_eq!(machine.interrupt.failure(), None);
        machine.activate();
    }
}
