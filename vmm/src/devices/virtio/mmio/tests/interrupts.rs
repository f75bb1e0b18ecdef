//! Tests what goes between a driver and a device that runs: interrupts, notifications, failures.

use super::super::line::{CONFIG_CHANGE, REPORTED_FAILURES, USED_BUFFER};
use super::*;

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let mut driver = Driver::with_device(true);
    driver.negotiate(FEATURES);
    driver.set_queue(0, 128, 0x1_0000);
    assert_ne!(driver.add_status(DRIVER_OK) & NEEDS_RESET, 0);
    assert!(driver.interrupted());
    assert_eq!(driver.get(0x60), CONFIG_CHANGE);
}

#[test]
fn interrupts_are_shown_and_acknowledged() {
    let mut driver = Driver::new();
    driver.start();
    let interrupt = driver.interrupt();
    assert!(!driver.interrupted());
    let generation = driver.get(0xfc);

    interrupt.signal_used(1);
    assert!(driver.interrupted());
    assert_eq!(driver.get(0x60), USED_BUFFER);
    interrupt.signal_config();
    assert_eq!(driver.get(0x60), USED_BUFFER | CONFIG_CHANGE);
    assert_ne!(driver.get(0xfc), generation);
    driver.set(0x64, USED_BUFFER);
    assert_eq!(driver.get(0x60), CONFIG_CHANGE);

    interrupt.fail("test");
    assert_ne!(driver.status() & NEEDS_RESET, 0);
    driver.set(0x70, 0);
    assert_eq!((driver.status(), driver.resets()), (0, 1));
}

/// Whoever has the event can't set the register's bits, and the driver looks at its rings only if
/// they say so.
#[test]
fn somebody_elses_interrupts_are_shown_too() {
    let mut driver = Driver::new();
    driver.start();
    let interrupt = driver.interrupt();
    assert_eq!(driver.get(0x060), 0);
    let event = interrupt.used_event().unwrap().try_clone().unwrap();
    event.write(1).unwrap();
    assert!(driver.interrupted());
    assert_eq!(driver.get(0x060), USED_BUFFER);
    driver.set(0x064, USED_BUFFER);
    assert_eq!(driver.get(0x060), USED_BUFFER);
    interrupt.signal_config();
    assert_eq!(driver.get(0x060), USED_BUFFER | CONFIG_CHANGE);
    driver.set(0x064, USED_BUFFER | CONFIG_CHANGE);
    assert_eq!(driver.get(0x060), USED_BUFFER);
}

#[test]
fn notifications_reach_a_running_device() {
    let mut driver = Driver::new();
    driver.set(QUEUE_NOTIFY, 0);
    driver.start();
    let events = |driver: &Driver| -> Vec<bool> {
        let log = driver.log.lock().unwrap();
        log.queues.iter().map(|q| q.notify.read().is_ok()).collect()
    };
    assert_eq!(events(&driver), [false, false]);
    driver.set(QUEUE_NOTIFY, 1);
    assert_eq!(events(&driver), [false, true]);
}

#[test]
fn a_device_that_fails_for_ever_is_reported_some_times() {
    let driver = Driver::new();
    let line = &driver.transport.line;
    let reported = (0..1000).filter(|_| line.counts_as_news()).count();
    assert_eq!(reported, REPORTED_FAILURES as usize);
}
