//! Serves the control queue (virtio 1.3, section 5.1.6.5), on a thread of its own. The only command
//! is how many pairs of queues the driver uses.

use std::os::fd::AsRawFd;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_ERR, VIRTIO_NET_OK,
};
use vm_memory::GuestMemoryMmap;

use super::tap::Tap;
use super::turn::Failure;
use crate::devices::virtio::buffers::Buffers;
use crate::devices::virtio::queue::DeviceQueue;
use crate::devices::virtio::thread::Stop;

/// Class, command, and the number of pairs.
const COMMAND: usize = 4;

/// Takes commands until told to stop, or until the device can't continue. The driver has set up
/// `pairs` pairs of queues.
pub(super) fn run(
    queue: &mut DeviceQueue,
    memory: &GuestMemoryMmap,
    tap: &Tap,
    pairs: usize,
    stop: &Stop,
) -> Result<(), Failure> {
    let notified = [queue.notify().as_raw_fd()];
    while stop.wait(&notified).map_err(Failure::Wait)? {
        queue.acknowledge();
        while !stop.requested() {
            match queue.pop(memory)? {
                Some(mut chain) => {
                    if chain.writable.is_empty() {
                        let problem = "has no room for an answer";
                        return Err(queue.bad_chain(chain.head, problem).into());
                    }
                    let wanted = wanted_pairs(chain.readable, pairs);
                    // The host refuses if the tap is gone.
                    let answer = match wanted.map(|count| tap.use_queues(count)) {
                        Some(Ok(())) => VIRTIO_NET_OK,
                        Some(Err(_)) | None => VIRTIO_NET_ERR,
                    };
                    let written = chain.writable.write(&[answer as u8]);
                    queue.push(chain.head, written)?;
                }
                None if queue.resume_notifications()? => {}
                None => break,
            }
        }
        queue.signal()?;
    }
    Ok(())
}

/// Returns how many pairs a command asks for, if it is valid.
fn wanted_pairs(mut command: Buffers<'_>, pairs: usize) -> Option<usize> {
    let mut bytes = [0; COMMAND];
    if command.len() != COMMAND || command.read(&mut bytes) != COMMAND {
        return None;
    }
    let [class, command, low, high] = bytes;
    let known = u32::from(class) == VIRTIO_NET_CTRL_MQ
        && u32::from(command) == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
    let count = usize::from(u16::from_le_bytes([low, high]));
    (known && (1..=pairs).contains(&count)).then_some(count)
}
