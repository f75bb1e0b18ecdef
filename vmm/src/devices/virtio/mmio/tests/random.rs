//! Tests the registers with a driver that does anything.

use super::*;

/// Whatever a driver does, the registers keep their rules: a device runs only after both sides have
/// agreed, its queues lie in memory, and it is reset before it starts again.
#[test]
fn no_sequence_of_accesses_breaks_the_rules() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut activations = 0;
    for _ in 0..200 {
        let mut driver = Driver::new();
        for _ in 0..500 {
            random_access(&mut driver, &mut random);
            let log = driver.log.lock().unwrap();
            let running = log.activations.len() - log.resets;
            assert!(running <= 1, "started twice");
            if let Some((features, queues)) = log.activations.last() {
                assert_eq!(features & !FEATURES, 0);
                assert_eq!(queues.len(), 2);
            }
            for ActiveQueue { queue, .. } in log.queues.iter().filter(|q| q.queue.ready()) {
                assert!(queue.desc_table() < MEMORY && queue.used_ring() < MEMORY);
            }
        }
        driver.transport.reset();
        assert_eq!(driver.status(), 0);
        let log = driver.log.lock().unwrap();
        assert_eq!(log.activations.len(), log.resets);
        activations += log.resets;
    }
    // The accesses aren't so random that nothing ever runs.
    assert!(activations > 100, "{activations}");
}

/// Makes an access that is often what a good driver would do next.
fn random_access(driver: &mut Driver, random: &mut Random) {
    const REGISTERS: [u64; 16] = [
        0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4,
        0x104,
    ];
    match random.below(16) {
        0 => driver.set(0x70, 0),
        1 => drop(driver.add_status(1 << random.below(8))),
        2 => drop(driver.negotiate(FEATURES)),
        3 => driver.set_queue(random.below(3) as u32, 64, random.below(16) << 16),
        4 => drop(driver.add_status(DRIVER_OK)),
        5 => {
            let mut data = vec![0; random.below(9) as usize];
            driver.transport.read(random.below(0x1000), &mut data);
        }
        6 => {
            let data = vec![random.next() as u8; random.below(9) as usize];
            driver.transport.write(random.below(0x1000), &data);
        }
        7 => driver.set(0x70, random.next() as u32),
        _ => {
            let register = REGISTERS[random.below(16) as usize];
            let value = match random.below(3) {
                0 => random.below(4) as u32,
                1 => 1 << random.below(32),
                _ => random.next() as u32,
            };
            driver.set(register, value);
        }
    }
}

/// Marsaglia's xorshift: it gives the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
