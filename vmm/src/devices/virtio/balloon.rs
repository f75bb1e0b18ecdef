//! The memory balloon device (virtio 1.3, section 5.5), only for free page reporting: the guest
//! reports which of its pages it doesn't use, and the host takes back the memory behind them
//! (5.5.6.7). A page that is used again starts fresh.
//!
//! The balloon itself stays empty: the device never asks for pages, but still returns the chains in
//! which a driver gives or takes some.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{GuestMemory, GuestMemoryMmap, GuestMemoryRegion, VolatileSlice};

use super::queue::{self, BASIC_FEATURES, Chain, DeviceQueue};
use super::thread::{DeviceThread, Failure, Stop};
use super::{ActivateError, Activation, VirtioDevice, config};

/// `VIRTIO_BALLOON_F_REPORTING`
const REPORTING: u64 = 1 << 5;

/// Inflate, deflate and reporting queue. A device can have other queues between the last two; this
/// one has none, and drivers count only the queues that exist.
const QUEUE_SIZES: [u16; 3] = [16, 16, 32];
const REPORTING_QUEUE: usize = 2;

/// `struct virtio_balloon_config`: the pages that the host wants, and the pages that it has.
const CONFIG: [u8; 8] = [0; 8];

/// The balloon device.
#[derive(Default)]
pub struct Balloon {
    thread: Option<DeviceThread>,
}

impl Balloon {
    /// Makes a device.
    pub fn new() -> Balloon {
        Balloon::default()
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        BASIC_FEATURES | REPORTING
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&CONFIG, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.reset();
        let memory = Arc::clone(&activation.memory);
        let interrupt = Arc::clone(&activation.interrupt);
        let mut queues: [DeviceQueue; 3] = queue::start_queues(activation)?;
        let work = move |stop: &Stop| {
            let notified = [0, 1, 2].map(|index: usize| queues[index].notify().as_raw_fd());
            while stop.wait(&notified)? {
                for (index, queue) in queues.iter_mut().enumerate() {
                    queue.acknowledge();
                    serve(queue, index == REPORTING_QUEUE, &memory, stop)?;
                }
            }
            Ok::<(), Failure>(())
        };
        self.thread = Some(DeviceThread::spawn("balloon", interrupt, work)?);
        Ok(())
    }

    fn reset(&mut self) {
        self.thread = None;
    }
}

fn serve(
    queue: &mut DeviceQueue,
    reports: bool,
    memory: &GuestMemoryMmap,
    stop: &Stop,
) -> Result<(), Failure> {
    while !stop.requested() {
        match queue.pop(memory)? {
            Some(chain) => {
                if reports {
                    take_back(&chain, memory);
                }
                queue.push(chain.head, 0)?;
            }
            None if queue.resume_notifications()? => {}
            None => break,
        }
    }
    Ok(queue.signal()?)
}

/// Gives the host the whole pages in what the guest reports.
fn take_back(chain: &Chain<'_>, memory: &GuestMemoryMmap) {
    for part in chain.writable.parts() {
        if let Some((start, length)) = whole_pages(part) {
            let in_file = memory.iter().any(|region| {
                let first = region.as_ptr() as usize;
                let range = first..first + region.size();
                region.file_offset().is_some() && range.contains(&start)
            });
            // Shared memory goes back to the host only if it is removed from its file.
            let advice = if in_file {
                libc::MADV_REMOVE
            } else {
                libc::MADV_DONTNEED
            };
            // SAFETY: the range is guest memory, whose content the guest may give up; the mapping
            // stays. If the host refuses, the memory stays where it is.
            unsafe { libc::madvise(start as *mut libc::c_void, length, advice) };
        }
    }
}

fn whole_pages(part: &VolatileSlice<'_>) -> Option<(usize, usize)> {
    const PAGE: usize = 4096;
    let start = part.ptr_guard_mut().as_ptr() as usize;
    let end = (start + part.len()) & !(PAGE - 1);
    let start = start.next_multiple_of(PAGE);
    (start < end).then(|| (start, end - start))
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;
    use std::os::unix::fs::MetadataExt;

    use vm_memory::{FileOffset, GuestAddress};

    use super::*;
    use crate::devices::virtio::testing::*;

    const PAGE: u64 = 4096;
    const AT: u64 = 0x40_0000;

    fn report(machine: &mut Machine<Balloon>, parts: &[Part]) {
        assert_eq!(machine.queues[REPORTING_QUEUE].run(parts), 0);
    }

    #[test]
    fn configuration_and_features() {
        let balloon = Balloon::new();
        assert_eq!(balloon.device_type(), 5);
        assert_eq!(balloon.features() & 0x3f, REPORTING);
        let mut config = [1; 10];
        balloon.read_config(0, &mut config);
        assert_eq!(config, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn reported_pages_are_emptied_and_no_others() {
        let mut machine = Machine::new(Balloon::new());
        let size = 8 * PAGE;
        machine.write(AT, &vec![7; size as usize]);
        // From within a page to within another; a page; less than one.
        report(
            &mut machine,
            &[
                (AT + 100, (2 * PAGE) as u32, true),
                (AT + 4 * PAGE, PAGE as u32, true),
                (AT + 6 * PAGE + 1, (PAGE - 2) as u32, true),
            ],
        );
        let gone = [false, true, false, false, true, false, false, false];
        for (page, gone) in (0..).zip(gone) {
            let bytes = machine.read(AT + page * PAGE, PAGE as usize);
            let expected = if gone { 0 } else { 7 };
            assert!(bytes.iter().all(|byte| *byte == expected), "page {page}");
        }
    }

    #[test]
    fn memory_in_a_file_leaves_the_file() {
        // SAFETY: the name is a string; the descriptor that comes back is nobody else's.
        let file = unsafe {
            let fd = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            std::fs::File::from_raw_fd(fd)
        };
        file.set_len(MEMORY_SIZE as u64).unwrap();
        let blocks = {
            let file = file.try_clone().unwrap();
            move || file.metadata().unwrap().blocks()
        };
        let memory = GuestMemoryMmap::from_ranges_with_files([(
            GuestAddress(0),
            MEMORY_SIZE,
            Some(FileOffset::new(file, 0)),
        )]);
        let mut machine = Machine::new(Balloon::new());
        machine.device.reset();
        machine.memory = Arc::new(memory.unwrap());
        machine.activate();
        machine.write(AT, &[7; 2 << 20]);
        let before = blocks();
        report(&mut machine, &[(AT, 2 << 20, true)]);
        assert_eq!(before - blocks(), (2 << 20) / 512);
        assert_eq!(machine.read(AT, 100), [0; 100]);
    }

    #[test]
    fn what_the_guest_gives_is_returned_untouched() {
        let mut machine = Machine::new(Balloon::new());
        machine.write(AT, &[7; 4096]);
        machine.write(BUFFERS, &((AT >> 12) as u32).to_le_bytes());
        for queue in [0, 1] {
            assert_eq!(machine.queues[queue].run(&[(BUFFERS, 4, false)]), 0);
        }
        assert_eq!(machine.read(AT, 4096), [7; 4096]);
    }

    #[test]
    fn broken_queues_stop_the_device() {
        for index in 0..QUEUE_SIZES.len() {
            break_queue(index, Balloon::new, |machine| {
                report(machine, &[(AT, 4096, true)]);
            });
        }
    }
}
