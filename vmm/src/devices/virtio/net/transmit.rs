//! From the guest to the tap.

use std::io;

use vm_memory::GuestMemoryMmap;

use super::header::{self, Header};
use super::pair::{BATCH, Failure, WaitFor};
use super::tap::TapQueue;
use crate::devices::virtio::queue::DeviceQueue;
use crate::devices::virtio::thread::Stop;
use crate::devices::virtio::vector::Vector;

/// A transmit queue.
pub(super) struct Transmitter<'m> {
    queue: DeviceQueue,
    memory: &'m GuestMemoryMmap,
    features: u64,
}

impl<'m> Transmitter<'m> {
    pub(super) fn new(
        queue: DeviceQueue,
        memory: &'m GuestMemoryMmap,
        features: u64,
    ) -> Transmitter<'m> {
        Transmitter {
            queue,
            memory,
            features,
        }
    }

    pub(super) fn queue(&self) -> &DeviceQueue {
        &self.queue
    }

    /// Sends some packets. Returns what there is to wait for.
    pub(super) fn serve(&mut self, tap: &TapQueue) -> Result<WaitFor, Failure> {
        self.queue.pause_notifications()?;
        let waits = self.send_some(tap);
        // Also of what was done before something failed.
        self.queue.signal()?;
        waits
    }

    /// Drops all packets that there are, unless told to stop.
    pub(super) fn discard(&mut self, stop: &Stop) -> Result<(), Failure> {
        while !stop.requested() {
            match self.queue.pop(self.memory)? {
                Some(chain) => self.queue.push(chain.head, 0)?,
                None if self.queue.resume_notifications()? => {}
                None => break,
            }
        }
        self.queue.signal()?;
        Ok(())
    }

    fn send_some(&mut self, tap: &TapQueue) -> Result<WaitFor, Failure> {
        for _ in 0..BATCH {
            let Some(mut chain) = self.queue.pop(self.memory)? else {
                if self.queue.resume_notifications()? {
                    continue;
                }
                return Ok(WaitFor::Driver);
            };
            if !chain.writable.is_empty() {
                let problem = "has something to write";
                return Err(self.queue.bad_chain(chain.head, problem).into());
            }
            let mut bytes = [0; header::SIZE];
            if chain.readable.read(&mut bytes) < header::SIZE {
                let problem = "is shorter than a packet's header";
                return Err(self.queue.bad_chain(chain.head, problem).into());
            }
            let length = chain.readable.len();
            // As an adapter does it, what can't be sent is dropped.
            if let Some(header) = Header::from_bytes(bytes).checked(length, self.features) {
                let mut bytes = header.to_bytes();
                let mut packet = Vector::with_capacity(1 + chain.readable.parts().len());
                packet.push(&mut bytes);
                packet.extend(&chain.readable);
                match tap.send(&mut packet) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.queue.unpop();
                        return Ok(WaitFor::Tap);
                    }
                    // An interface that is down, a packet that the kernel doesn't like.
                    Err(_) if !tap.is_gone() => {}
                    Err(_) => {
                        self.queue.unpop();
                        return Err(Failure::Gone);
                    }
                    Ok(_) => {}
                }
            }
            self.queue.push(chain.head, 0)?;
        }
        Ok(WaitFor::Nothing)
    }
}
