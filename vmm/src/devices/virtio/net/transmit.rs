//! Carries packets from the guest to the tap.

use std::io;

use vm_memory::GuestMemoryMmap;

use super::header::{self, Header};
use super::tap::TapQueue;
use super::turn::{BATCH, Failure, WaitFor};
use crate::devices::virtio::queue::DeviceQueue;
use crate::devices::virtio::thread::Stop;
use crate::devices::virtio::throttle::Brake;
use crate::devices::virtio::vector::Vector;

/// A transmit queue.
pub(super) struct Transmitter<'m> {
    queue: DeviceQueue,
    memory: &'m GuestMemoryMmap,
    features: u64,
    brake: Brake,
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
            brake: Brake::default(),
        }
    }

    pub(super) fn with_brake(self, brake: Brake) -> Transmitter<'m> {
        Transmitter { brake, ..self }
    }

    pub(super) fn brake(&self) -> &Brake {
        &self.brake
    }

    pub(super) fn queue(&self) -> &DeviceQueue {
        &self.queue
    }

    /// Sends some packets. Returns what to wait for.
    pub(super) fn serve(&mut self, tap: &TapQueue) -> Result<WaitFor, Failure> {
        self.queue.pause_notifications()?;
        let waits = self.send_some(tap);
        // Even for what was done before something failed.
        self.queue.signal()?;
        waits
    }

    /// Drops all available packets, unless told to stop.
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
            if self.brake.holds().map_err(Failure::Wait)? {
                return Ok(WaitFor::Limit);
            }
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
            // Like a network adapter, drops what can't be sent.
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
                    // The interface is down, or the kernel refuses the packet.
                    Err(_) if !tap.is_gone() => {}
                    Err(_) => {
                        self.queue.unpop();
                        return Err(Failure::Gone);
                    }
                    Ok(_) => {}
                }
            }
            self.brake.charge(length as u64);
            self.queue.push(chain.head, 0)?;
        }
        Ok(WaitFor::Nothing)
    }
}
