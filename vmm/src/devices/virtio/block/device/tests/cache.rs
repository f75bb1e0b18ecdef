//! Tests when written data is on the medium.

use std::os::fd::AsRawFd;

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::*;

#[test]
fn the_cache_is_what_the_driver_makes_of_it() {
    let mut machine = machine(&image());
    let is_on = |machine: &Machine<Block>| {
        let mut byte = [9];
        machine.device.read_config(32, &mut byte);
        byte == [1]
    };
    // This driver supports neither flushes nor the cache.
    assert!(!is_on(&machine));
    works(&mut machine);
    machine.device.write_config(32, &[1]);
    assert!(!is_on(&machine));

    let basic = machine.features;
    accept(&mut machine, basic | FLUSH);
    assert!(is_on(&machine));
    machine.device.write_config(32, &[0]);
    assert!(is_on(&machine));

    accept(&mut machine, basic | FLUSH | WCE);
    for (offset, bytes, on) in [
        (32, &[0][..], false),
        (32, &[2], false),
        (32, &[1, 0], false),
        (0, &[1], false),
        (u64::MAX, &[1], false),
        (32, &[], false),
        (32, &[1], true),
    ] {
        machine.device.write_config(offset, bytes);
        assert_eq!(is_on(&machine), on, "{offset} {bytes:?}");
        works(&mut machine);
    }
    machine.device.write_config(32, &[0]);
    assert_eq!(ranges(&mut machine, VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]), OK);
    machine.device.reset();
    assert!(is_on(&machine));
    // A driver may choose even before it is ready.
    machine.device.write_config(32, &[0]);
    machine.activate();
    assert!(!is_on(&machine));
}

#[test]
#[ignore = "needs cachestat(2), of Linux 6.5"]
fn flushes_are_answered_once_the_data_is_on_the_medium() {
    let file = image();
    let mut machine = machine(&file);
    accept(&mut machine, BASIC_FEATURES & !EVENTS | FLUSH);
    machine.write(DATA, &[3; 512]);
    let write = [(DATA, 512, false)];
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_OUT, 0, &write).0, OK);
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert!(dirty_pages(&file) == 0);
}

const EVENTS: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

#[test]
#[ignore = "needs cachestat(2), of Linux 6.5"]
fn writes_are_on_the_medium_where_there_are_no_flushes() {
    let file = image();
    let mut machine = machine(&file);
    machine.write(DATA, &[3; 512]);
    let write = [(DATA, 512, false)];
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_OUT, 0, &write).0, OK);
    assert!(dirty_pages(&file) == 0);
    // With a cache the data waits for the flush, which shows that the count is meaningful.
    accept(&mut machine, BASIC_FEATURES & !EVENTS | FLUSH);
    assert_eq!(request(&mut machine, VIRTIO_BLK_T_OUT, 0, &write).0, OK);
    assert!(dirty_pages(&file) > 0);
}

/// Returns how many pages of the first block aren't on the medium yet: `cachestat(2)`, Linux 6.5.
fn dirty_pages(file: &File) -> u64 {
    const CACHESTAT: i64 = 451;
    let range = [0u64, 4096];
    // `nr_cache`, `nr_dirty`, `nr_writeback`, `nr_evicted`, `nr_recently_evicted`
    let mut counts = [0u64; 5];
    // SAFETY: both structures are valid for the call.
    let outcome = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            counts.as_mut_ptr(),
            0,
        )
    };
    let error = io::Error::last_os_error();
    if outcome != 0 && error.raw_os_error() == Some(libc::ENOSYS) {
        panic!("skipped: this kernel can't tell which pages are dirty");
    }
    assert_eq!(outcome, 0, "{error}");
    counts[1] + counts[2]
}
