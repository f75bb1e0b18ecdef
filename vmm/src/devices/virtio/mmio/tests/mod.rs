//! Drives the registers as a good or bad driver does, with a device that records what happens to
//! it.

mod interrupts;
mod queues;
mod random;

use std::sync::Mutex;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::super::ActivateError;
use super::*;

const MEMORY: u64 = 1 << 20;
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1;

/// A record of what happened to a device.
#[derive(Default)]
struct Log {
    activations: Vec<(u64, Vec<(bool, u16)>)>,
    interrupt: Option<Arc<dyn Interrupt>>,
    queues: Vec<ActiveQueue>,
    resets: usize,
    written: Vec<(u64, Vec<u8>)>,
}

struct Fake {
    log: Arc<Mutex<Log>>,
    refuse: bool,
}

impl VirtioDevice for Fake {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 64]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            if offset + (index as u64) < 8 {
                *byte = 0x10 + offset as u8 + index as u8;
            }
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.log
            .lock()
            .unwrap()
            .written
            .push((offset, data.to_vec()));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if self.refuse {
            return Err(ActivateError::QueueNotReady(1));
        }
        let mut log = self.log.lock().unwrap();
        let queues = &activation.queues;
        let seen = queues
            .iter()
            .map(|q| (q.queue.ready(), q.queue.size()))
            .collect();
        log.activations.push((activation.features, seen));
        log.interrupt = Some(activation.interrupt);
        log.queues = activation.queues;
        Ok(())
    }

    fn reset(&mut self) {
        self.log.lock().unwrap().resets += 1;
    }
}

/// A driver in front of the registers.
struct Driver {
    transport: MmioTransport,
    log: Arc<Mutex<Log>>,
}

impl Driver {
    fn new() -> Driver {
        Driver::with_device(false)
    }

    fn with_device(refuse: bool) -> Driver {
        let log = Arc::new(Mutex::new(Log::default()));
        let device = Fake {
            log: Arc::clone(&log),
            refuse,
        };
        let ranges = [(GuestAddress(0), MEMORY as usize)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        let transport = MmioTransport::new(Box::new(device), memory).unwrap();
        Driver { transport, log }
    }

    fn get(&self, offset: u64) -> u32 {
        let mut data = [0xaa; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn status(&self) -> u32 {
        self.get(0x70)
    }

    /// Sets further bits of the status, and returns the resulting status.
    fn add_status(&mut self, bits: u32) -> u32 {
        self.set(0x70, self.status() | bits);
        self.status()
    }

    fn negotiate(&mut self, features: u64) -> u32 {
        self.add_status(ACKNOWLEDGE);
        self.add_status(DRIVER);
        for (select, value) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.set(0x24, select);
            self.set(0x20, value);
        }
        self.add_status(FEATURES_OK)
    }

    fn set_queue(&mut self, index: u32, size: u32, at: u64) {
        self.set(0x30, index);
        self.set(0x38, size);
        for (register, address) in [
            (0x80, at),
            (0x90, at.wrapping_add(0x2000)),
            (0xa0, at.wrapping_add(0x3000)),
        ] {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
        self.set(0x44, 1);
    }

    fn start(&mut self) {
        assert_eq!(self.negotiate(FEATURES), ACKNOWLEDGE | DRIVER | FEATURES_OK);
        self.set_queue(0, 128, 0x1_0000);
        self.set_queue(1, 64, 0x2_0000);
        let running = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        assert_eq!(self.add_status(DRIVER_OK), running);
    }

    fn interrupted(&self) -> bool {
        self.transport.irq().read().is_ok()
    }

    fn activations(&self) -> usize {
        self.log.lock().unwrap().activations.len()
    }

    fn resets(&self) -> usize {
        self.log.lock().unwrap().resets
    }

    fn interrupt(&self) -> Arc<dyn Interrupt> {
        self.log.lock().unwrap().interrupt.clone().unwrap()
    }
}

#[test]
fn a_driver_finds_the_device() {
    let mut driver = Driver::new();
    assert_eq!(driver.get(0x00), 0x7472_6976);
    assert_eq!(driver.get(0x04), 2);
    assert_eq!(driver.get(0x08), VIRTIO_ID_RNG);
    driver.set(0x14, 0);
    assert_eq!(driver.get(0x10), FEATURES as u32);
    driver.set(0x14, 1);
    assert_eq!(driver.get(0x10), 1);
    driver.set(0x14, 2);
    assert_eq!(driver.get(0x10), 0);
    for (queue, size) in [(0, 256), (1, 64), (2, 0), (u32::MAX, 0)] {
        driver.set(0x30, queue);
        assert_eq!(driver.get(0x34), size);
    }
    // There is no shared memory region.
    assert_eq!((driver.get(0xb0), driver.get(0xb4)), (u32::MAX, u32::MAX));
}

#[test]
fn a_good_driver_starts_the_device() {
    let mut driver = Driver::new();
    driver.start();
    let log = driver.log.lock().unwrap();
    assert_eq!(log.activations, [(FEATURES, vec![(true, 128), (true, 64)])]);
    assert_eq!(log.queues[0].queue.desc_table(), 0x1_0000);
    assert_eq!(log.queues[1].queue.used_ring(), 0x2_3000);
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut driver = Driver::new();
    let status = driver.negotiate(FEATURES | 1 << 5);
    assert_eq!(status, ACKNOWLEDGE | DRIVER);
    // Including those of a legacy driver, without VERSION_1.
    let mut driver = Driver::new();
    assert_eq!(driver.negotiate(1), ACKNOWLEDGE | DRIVER);
    driver.add_status(DRIVER_OK);
    assert_eq!((driver.status(), driver.activations()), (3, 0));
}

#[test]
fn features_are_settled_once() {
    let mut driver = Driver::new();
    driver.negotiate(1 << VIRTIO_F_VERSION_1);
    driver.set(0x24, 0);
    driver.set(0x20, 1);
    driver.add_status(DRIVER_OK);
    assert_eq!(driver.log.lock().unwrap().activations[0].0, 1 << 32);
}

#[test]
fn steps_are_not_skipped() {
    for bits in [DRIVER, FEATURES_OK, DRIVER_OK, DRIVER | DRIVER_OK] {
        assert_eq!(Driver::new().add_status(bits), 0);
    }
    let mut driver = Driver::new();
    assert_eq!(driver.add_status(ACKNOWLEDGE | DRIVER_OK), ACKNOWLEDGE);
    assert_eq!(driver.activations(), 0);
}

#[test]
fn bits_are_not_taken_back_but_by_a_reset() {
    let mut driver = Driver::new();
    driver.start();
    let running = driver.status();
    driver.set(0x70, ACKNOWLEDGE);
    assert_eq!(driver.status(), running);
    driver.set(0x70, 0);
    assert_eq!((driver.status(), driver.resets()), (0, 1));
}

#[test]
fn a_reset_forgets_everything_and_the_device_starts_again() {
    let mut driver = Driver::new();
    driver.start();
    driver.interrupt().signal_used(0);
    driver.set(QUEUE_NOTIFY, 1);
    driver.set(0x70, 0);
    assert_eq!(driver.get(0x60), 0);
    for queue in 0..2 {
        driver.set(0x30, queue);
        assert_eq!(driver.get(0x44), 0);
    }
    assert!(
        driver
            .transport
            .notify_events()
            .all(|event| event.read().is_err())
    );
    driver.start();
    assert_eq!((driver.activations(), driver.resets()), (2, 1));
}

#[test]
fn a_device_that_never_ran_is_not_reset() {
    let mut driver = Driver::new();
    driver.set(0x70, 0);
    driver.negotiate(FEATURES);
    driver.set(0x70, 0);
    assert_eq!(driver.resets(), 0);
}

#[test]
fn the_configuration_space_is_the_devices() {
    let mut driver = Driver::new();
    let mut data = [0xff; 4];
    driver.transport.read(0x106, &mut data);
    assert_eq!(data, [0x16, 0x17, 0, 0]);
    driver.transport.write(0x102, &[1]);
    driver.negotiate(FEATURES);
    driver.transport.write(0x102, &[2, 3]);
    let log = driver.log.lock().unwrap();
    assert_eq!(log.written, [(2, vec![2, 3])]);
}

#[test]
fn accesses_of_another_size_or_alignment_are_ignored() {
    let mut driver = Driver::new();
    for len in [1, 2, 3, 8] {
        let mut data = vec![0xff; len];
        driver.transport.read(0, &mut data);
        assert_eq!(data, vec![0; len]);
        driver.transport.write(0x70, &vec![1; len]);
    }
    driver.transport.write(0x71, &[1, 0, 0, 0]);
    assert_eq!((driver.get(0x02), driver.status()), (0, 0));
}
