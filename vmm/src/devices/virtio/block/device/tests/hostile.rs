//! Tests what a driver, or the host, can do wrong.

use super::*;

#[test]
fn serial_numbers_and_queues_have_bounds() {
    let new = |serial: &str, queues| Block::new(image(), serial, queues).map(drop);
    new(&"x".repeat(20), 16).unwrap();
    for (serial, queues) in [
        ("x".repeat(21).as_str(), 1),
        ("a b", 1),
        ("ü", 1),
        ("a\0", 1),
        ("a", 0),
        ("a", 17),
    ] {
        let refused = new(serial, queues).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn sectors_beyond_the_disk_and_parts_of_sectors_are_refused() {
    let file = image();
    let mut machine = machine(&file);
    machine.write(DATA, &[7; 4096]);
    for (sector, length) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (SECTORS + 1, 0),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (1 << 55, 512),
        (0, 511),
        (0, 513),
        (0, 1),
    ] {
        for (kind, write) in [(VIRTIO_BLK_T_IN, true), (VIRTIO_BLK_T_OUT, false)] {
            let data = [(DATA, length, write)];
            let status = request(&mut machine, kind, sector, &data);
            assert_eq!(status, (ERROR, 1), "{kind} {sector} {length}");
        }
    }
    // Data in the wrong direction isn't data.
    let status = request(&mut machine, VIRTIO_BLK_T_OUT, 0, &[(DATA, 512, true)]);
    assert_eq!(status.0, OK);
    assert_eq!(machine.read(DATA, 4096), [7; 4096]);
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    assert_eq!(kept(&file), 0);
    works(&mut machine);
}

#[test]
fn unknown_requests_are_unsupported() {
    let mut machine = machine(&image());
    for kind in [2, 3, 5, 9, 10, VIRTIO_BLK_T_SECURE_ERASE, 1 << 31, u32::MAX] {
        let data = [(DATA, 512, true)];
        let status = request(&mut machine, kind, 0, &data);
        assert_eq!(status, (UNSUPPORTED, 1));
    }
    works(&mut machine);
}

#[test]
fn chains_that_can_not_be_answered_stop_the_device() {
    let short_header = [(HEADER, 15, false), (STATUS, 1, true)];
    let no_header = [(STATUS, 1, true)];
    let no_status = [(HEADER, 16, false), (DATA, 512, false)];
    let empty_status = [(HEADER, 16, false), (STATUS, 0, true)];
    for (parts, why) in [
        (&short_header[..], "header"),
        (&no_header, "header"),
        (&no_status, "status"),
        (&empty_status, "status"),
    ] {
        let mut machine = machine(&image());
        machine.queues[0].add(parts);
        machine.queues[0].notify();
        let failure = machine.interrupt.wait_for_failure();
        assert!(failure.contains(why), "{failure}");
    }
}

#[test]
fn wrong_ranges_are_refused_and_change_nothing() {
    let file = image();
    let data = pattern(SIZE as usize);
    file.write_all_at(&data, 0).unwrap();
    let mut machine = machine(&file);
    let (discard, zero) = (VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES);
    let good = (0, 8, 0);
    for (kind, list, status) in [
        (discard, &[good, (SECTORS - 1, 2, 0)][..], ERROR),
        (discard, &[good, (SECTORS, 1, 0)], ERROR),
        (discard, &[good, (u64::MAX, 8, 0)], ERROR),
        (discard, &[good, (0, u32::MAX, 0)], ERROR),
        (discard, &[good, (0, (1 << 22) + 1, 0)], ERROR),
        (discard, &[good; 17], ERROR),
        (discard, &[], ERROR),
        (discard, &[good, (0, 8, 1)], UNSUPPORTED),
        (zero, &[good; 2], ERROR),
        (zero, &[(SECTORS, 1, 0)], ERROR),
        (zero, &[(0, (1 << 17) + 1, 0)], ERROR),
        (zero, &[(0, 8, 2)], UNSUPPORTED),
        (zero, &[(0, 8, 1 << 31)], UNSUPPORTED),
    ] {
        assert_eq!(ranges(&mut machine, kind, list), status, "{kind} {list:?}");
    }
    // Less than a range, and a little more than a range.
    for length in [15, 17] {
        let part = [(DATA, length, false)];
        assert_eq!(request(&mut machine, discard, 0, &part), (ERROR, 1));
    }
    assert!(content(&file, 0, SIZE as usize) == data);
    assert_eq!(ranges(&mut machine, discard, &[good; 16]), OK);
}

#[test]
fn ranges_that_would_take_long_are_refused() {
    const UNMAP: u32 = 1;
    let file = image();
    // Sparse, so it takes no space.
    file.set_len(3 << 30).unwrap();
    let mut machine = machine(&file);
    for (kind, sectors, flags) in [
        (VIRTIO_BLK_T_DISCARD, 1 << 22, 0),
        (VIRTIO_BLK_T_WRITE_ZEROES, 1 << 17, UNMAP),
    ] {
        let list = [(0, sectors, flags)];
        assert_eq!(ranges(&mut machine, kind, &list), OK);
        let list = [(0, sectors + 1, flags)];
        assert_eq!(ranges(&mut machine, kind, &list), ERROR);
    }
}

#[test]
fn an_image_that_shrinks_is_an_error_where_it_is_gone() {
    let file = image();
    file.write_all_at(&pattern(4096), 0).unwrap();
    let mut machine = machine(&file);
    file.set_len(3 * 512 + 100).unwrap();
    let read = [(DATA, 1024, true)];
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_IN, 1, &read), (OK, 1025));
    assert_eq!(machine.read(DATA, 1024), pattern(4096)[512..1536]);
    for sector in [2, 3, 100] {
        let status = request(&mut machine, VIRTIO_BLK_T_IN, sector, &read);
        assert_eq!(status, (ERROR, 1), "sector {sector}");
    }
    // What is written exists again.
    machine.write(DATA, &[5; 512]);
    let write = [(DATA, 512, false)];
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_OUT, 50, &write).0, OK);
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_IN, 49, &read).0, OK);
    assert_eq!(machine.read(DATA, 512), [0; 512]);
    assert_eq!(machine.read(DATA + 512, 512), [5; 512]);
    assert_eq!(machine.interrupt.failure(), None);
}

#[test]
fn a_driver_may_leave_queues_out_but_the_first() {
    let disk = Block::new(image(), "", 3).unwrap();
    let mut machine = Machine::new(disk);
    machine.device.reset();
    let mut activation = machine.activation();
    for active in &mut activation.queues[1..] {
        virtio_queue::QueueT::set_ready(&mut active.queue, false);
    }
    machine.device.activate(activation).unwrap();
    works(&mut machine);

    machine.device.reset();
    let mut activation = machine.activation();
    virtio_queue::QueueT::set_ready(&mut activation.queues[0].queue, false);
    let refused = machine.device.activate(activation).unwrap_err();
    assert!(matches!(refused, ActivateError::QueueNotReady(0)));
}

#[test]
fn broken_queues_stop_the_device() {
    let file = image();
    break_queue(0, || block(&file), works);
    let two = || Block::new(file.try_clone().unwrap(), "", 2).unwrap();
    break_queue(1, two, works);
}

/// If the same memory is in a request more than once, the last write to it stays; if that is the
/// rings' memory, the driver has damaged its own.
#[test]
fn parts_that_overlap_harm_the_guest_alone() {
    let file = image();
    file.write_all_at(&pattern(4096), 0).unwrap();
    let mut machine = machine(&file);
    let twice = [(DATA, 512, true), (DATA, 512, true)];
    let status = request(&mut machine, VIRTIO_BLK_T_IN, 0, &twice);
    assert_eq!(status, (OK, 1025));
    assert_eq!(machine.read(DATA, 512), pattern(1024)[512..]);
    let over_the_status = [(STATUS - 256, 512, true)];
    let status = request(&mut machine, VIRTIO_BLK_T_IN, 0, &over_the_status);
    assert_eq!(status, (OK, 513));
    let over_the_header = [(HEADER, 512, true)];
    let status = request(&mut machine, VIRTIO_BLK_T_IN, 0, &over_the_header);
    assert_eq!(status, (OK, 513));
    // The other way round: the request itself is written to the disk.
    let header = [(HEADER, 16, false), (DATA, 496, false)];
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_OUT, 0, &header).0, OK);
    assert_eq!(content(&file, 0, 1), [VIRTIO_BLK_T_OUT as u8]);
    assert_eq!(machine.interrupt.failure(), None);

    for ring in machine.queues[0].rings() {
        let mut machine = Machine::new(block(&file));
        machine.write(HEADER, &[0; 16]);
        let parts = [(HEADER, 16, false), (ring, 512, true), (STATUS, 1, true)];
        machine.queues[0].add(&parts);
        machine.queues[0].notify();
        // It may continue or not; it can be reset, and works then.
        std::thread::sleep(std::time::Duration::from_millis(20));
        machine.device.reset();
        machine.interrupt = Arc::default();
        machine.activate();
        works(&mut machine);
        assert_eq!(machine.interrupt.failure(), None);
    }
}
