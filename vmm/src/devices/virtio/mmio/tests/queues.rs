//! Tests how a driver sets queues up.

use super::*;

#[test]
fn a_queue_that_the_driver_leaves_out_is_not_ready() {
    let mut driver = Driver::new();
    driver.negotiate(FEATURES);
    driver.set_queue(1, 32, 0x2_0000);
    driver.add_status(DRIVER_OK);
    let log = driver.log.lock().unwrap();
    assert_eq!(log.activations[0].1, [(false, 256), (true, 32)]);
}

#[test]
fn queues_are_set_up_in_their_time_only() {
    let mut driver = Driver::new();
    driver.set_queue(0, 128, 0x1_0000);
    assert_eq!(driver.get(0x44), 0);
    driver.start();
    driver.set(0x30, 0);
    driver.set(0x44, 0);
    assert_eq!(driver.get(0x44), 1);
}

#[test]
fn a_queue_that_cannot_work_fails_the_device_only() {
    let end = MEMORY - 0x3000;
    let bad = [
        (0, 0x1_0000),
        (3, 0x1_0000),
        (512, 0x1_0000),
        (u32::MAX, 0x1_0000),
        (128, 0x1_0001),
        (128, MEMORY),
        (128, end - 0x10),
        (128, !0xf),
    ];
    for (size, address) in bad {
        let mut driver = Driver::new();
        driver.negotiate(FEATURES);
        driver.set_queue(0, size, address);
        assert_eq!(driver.get(0x44), 0, "{size} {address:#x}");
        assert_ne!(driver.status() & NEEDS_RESET, 0, "{size} {address:#x}");
        driver.add_status(DRIVER_OK);
        assert_eq!(driver.activations(), 0);
        driver.set(0x70, 0);
        driver.start();
    }
}

#[test]
fn rings_may_end_where_memory_ends() {
    let mut driver = Driver::new();
    driver.negotiate(FEATURES);
    driver.set(0x30, 0);
    // Descriptors take 16 bytes each.
    driver.set(0x38, 128);
    for (register, address) in [(0x80, MEMORY - 0x800), (0x90, 0x2000), (0xa0, 0x3000)] {
        driver.set(register, address as u32);
    }
    driver.set(0x44, 1);
    assert_eq!(driver.get(0x44), 1);
}

#[test]
fn queues_out_of_range_are_ignored() {
    let mut driver = Driver::new();
    driver.negotiate(FEATURES);
    driver.set_queue(7, 128, 0x1_0000);
    driver.set_queue(u32::MAX, 128, 0x1_0000);
    driver.set(QUEUE_NOTIFY, 7);
    driver.set(QUEUE_NOTIFY, u32::MAX);
    assert_eq!(driver.status() & NEEDS_RESET, 0);
}
