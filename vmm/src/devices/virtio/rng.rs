//! The entropy device (virtio 1.3, section 5.4): random bytes from the host's kernel.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::GuestMemoryMmap;

use super::queue::{self, BASIC_FEATURES, DeviceQueue};
use super::thread::{DeviceThread, Failure, Stop};
use super::{ActivateError, Activation, VirtioDevice};

/// The most bytes that one request gets; a longer request gets only this many, as the device is
/// free to do (5.4.6.2). Linux asks for 64 at a time. Without a limit, one request could make the
/// host generate random bytes for as long as it takes to fill the guest's memory.
pub const MAX_REQUEST: usize = 4096;

/// Linux has one outstanding request at a time.
const QUEUE_SIZES: [u16; 1] = [8];

/// The entropy device.
#[derive(Default)]
pub struct Rng {
    thread: Option<DeviceThread>,
}

impl Rng {
    /// Makes a device.
    pub fn new() -> Rng {
        Rng::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let [mut requests] = queue::start_queues(activation)?;
        let work = move |stop: &Stop| {
            while stop.wait(&[requests.notify().as_raw_fd()])? {
                requests.acknowledge();
                serve(&mut requests, &memory, stop)?;
            }
            Ok::<(), Failure>(())
        };
        self.thread = Some(DeviceThread::spawn("rng", interrupt, work)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.thread = None;
    }
}

fn serve(requests: &mut DeviceQueue, memory: &GuestMemoryMmap, stop: &Stop) -> Result<(), Failure> {
    while !stop.requested() {
        match requests.pop(memory)? {
            Some(mut chain) => {
                if chain.writable.is_empty() || !chain.readable.is_empty() {
                    return Err(requests
                        .bad_chain(chain.head, "is no request for random bytes")
                        .into());
                }
                let mut bytes = [0; MAX_REQUEST];
                let wanted = chain.writable.len().min(MAX_REQUEST);
                fill(&mut bytes[..wanted])?;
                let written = chain.writable.write(&bytes[..wanted]);
                requests.push(chain.head, written)?;
            }
            None if requests.resume_notifications()? => {}
            None => break,
        }
    }
    Ok(requests.signal()?)
}

/// Fills `bytes` from the kernel's generator.
fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length are those of a slice.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => bytes = &mut bytes[count..],
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::*;

    fn get_some(machine: &mut Machine<Rng>) {
        let at = BUFFERS + 0x1_0000;
        machine.write(at, &[0; 64]);
        assert_eq!(
            machine.queues[0].run(&[(at, 32, true), (at + 40, 24, true)]),
            56
        );
        let bytes = machine.read(at, 64);
        // This fails on one in 2^192 machines.
        assert!(bytes[..24].iter().any(|byte| *byte != 0));
        assert!(bytes[40..].iter().any(|byte| *byte != 0));
        assert_eq!(bytes[32..40], [0; 8]);
    }

    #[test]
    fn random_bytes_fill_the_buffers() {
        let mut machine = Machine::new(Rng::new());
        assert_eq!(machine.device.device_type(), 4);
        get_some(&mut machine);
        let first = machine.read(BUFFERS + 0x1_0000, 32);
        get_some(&mut machine);
        assert_ne!(machine.read(BUFFERS + 0x1_0000, 32), first);
        wait_for("an interrupt", || {
            (machine.interrupt.signals(0) > 0).then_some(())
        });
    }

    #[test]
    fn a_request_gets_no_more_than_the_bound() {
        let mut machine = Machine::new(Rng::new());
        let parts = [(BUFFERS, 4000, true), (BUFFERS + 0x1000, 1 << 20, true)];
        assert_eq!(machine.queues[0].run(&parts), MAX_REQUEST as u32);
        assert_eq!(machine.read(BUFFERS + 0x1000 + 96, 0x1000), [0; 0x1000]);
    }

    #[test]
    fn requests_with_nothing_to_write_stop_the_device() {
        for parts in [
            &[(BUFFERS, 64, false)][..],
            &[(BUFFERS, 64, false), (BUFFERS, 64, true)],
            &[(BUFFERS, 0, true)],
        ] {
            let mut machine = Machine::new(Rng::new());
            machine.queues[0].add(parts);
            machine.queues[0].notify();
            machine.interrupt.wait_for_failure();
        }
    }

    #[test]
    fn events_that_nobody_waits_for_are_left_out() {
        let mut machine = Machine::new(Rng::new());
        machine.device.reset();
        machine.features = machine.device.features();
        machine.activate();
        get_some(&mut machine);
        wait_for("the first interrupt", || {
            (machine.interrupt.signals(0) == 1).then_some(())
        });
        // The driver still says that it waits for the first one.
        get_some(&mut machine);
        get_some(&mut machine);
        machine.device.reset();
        assert_eq!(machine.interrupt.signals(0), 1);
    }

    #[test]
    fn broken_queues_stop_the_device() {
        break_queue(0, Rng::new, get_some);
    }

    #[test]
    fn a_reset_ends_the_work() {
        let mut machine = Machine::new(Rng::new());
        get_some(&mut machine);
        machine.device.reset();
        machine.queues[0].add(&[(BUFFERS, 64, true)]);
        machine.queues[0].notify();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(machine.queues[0].try_used(), None);
        machine.activate();
        get_some(&mut machine);
    }
}
