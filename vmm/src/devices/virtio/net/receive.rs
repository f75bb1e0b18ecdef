//! Carries packets from the tap to the guest.
//!
//! The length of a packet is known only once it has been read, so it is read into as many of the
//! driver's chains as the longest packet may need. If there are fewer, what doesn't fit spills into
//! a buffer, and the packet waits there for chains that take the rest. The next packet is read
//! after that: what the guest has no room for waits in the kernel, in a queue of limited length.

use std::collections::VecDeque;
use std::io;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF};
use vm_memory::GuestMemoryMmap;

use super::header::{self, Header, MAX_PACKET};
use super::tap::TapQueue;
use super::turn::{BATCH, Failure, WaitFor};
use crate::devices::virtio::buffers::{Buffers, MAX_PARTS};
use crate::devices::virtio::queue::{Chain, DeviceQueue, QueueError};
use crate::devices::virtio::throttle::Brake;
use crate::devices::virtio::vector::Vector;

/// Parts of a vector that aren't the guest's: the packet's header and the spill.
const OWN_PARTS: usize = 2;

/// A chain with room.
struct Room<'m> {
    head: u16,
    /// The room for the header, in the first chain of a packet.
    header: Buffers<'m>,
    data: Buffers<'m>,
}

/// A packet that has been read.
struct Packet {
    header: Header,
    /// Without the header; `None` if the packet lacked a whole header.
    length: Option<usize>,
}

/// A packet part of which is still in the spill.
struct Unfinished<'m> {
    header: Header,
    header_room: Buffers<'m>,
    /// The full chains, and how many bytes are in each.
    used: Vec<(u16, usize)>,
    /// The part of the spill that remains to be copied.
    spilled: std::ops::Range<usize>,
}

/// A receive queue.
pub(super) struct Receiver<'m> {
    queue: DeviceQueue,
    memory: &'m GuestMemoryMmap,
    /// Whether a packet may take several chains (`VIRTIO_NET_F_MRG_RXBUF`).
    merges: bool,
    /// Whether the driver accepts packets without a checksum (`VIRTIO_NET_F_GUEST_CSUM`).
    checksums: bool,
    rooms: VecDeque<Room<'m>>,
    spill: Box<[u8]>,
    unfinished: Option<Unfinished<'m>>,
    brake: Brake,
}

impl<'m> Receiver<'m> {
    pub(super) fn new(
        queue: DeviceQueue,
        memory: &'m GuestMemoryMmap,
        features: u64,
    ) -> Receiver<'m> {
        Receiver {
            queue,
            memory,
            merges: features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0,
            checksums: features & 1 << VIRTIO_NET_F_GUEST_CSUM != 0,
            rooms: VecDeque::new(),
            spill: vec![0; MAX_PACKET].into(),
            unfinished: None,
            brake: Brake::default(),
        }
    }

    pub(super) fn with_brake(self, brake: Brake) -> Receiver<'m> {
        Receiver { brake, ..self }
    }

    pub(super) fn brake(&self) -> &Brake {
        &self.brake
    }

    pub(super) fn queue(&self) -> &DeviceQueue {
        &self.queue
    }

    /// Receives some packets. Returns what to wait for.
    pub(super) fn serve(&mut self, tap: &TapQueue) -> Result<WaitFor, Failure> {
        self.queue.pause_notifications()?;
        let waits = self.receive_some(tap);
        // Even for what was done before something failed.
        self.queue.signal()?;
        waits
    }

    fn receive_some(&mut self, tap: &TapQueue) -> Result<WaitFor, Failure> {
        for _ in 0..BATCH {
            self.finish()?;
            if self.unfinished.is_none() {
                self.gather()?;
            }
            if self.unfinished.is_some() || self.rooms.is_empty() {
                if self.queue.resume_notifications()? {
                    continue;
                }
                return Ok(WaitFor::Driver);
            }
            if self.brake.holds().map_err(Failure::Wait)? {
                return Ok(WaitFor::Limit);
            }
            match self.receive(tap) {
                Ok(packet) => {
                    self.brake.charge(packet.length.unwrap_or(0) as u64);
                    self.deliver(packet)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(WaitFor::Tap);
                }
                Err(_) if tap.is_gone() => return Err(Failure::Gone),
                Err(error) => return Err(Failure::Receive(error)),
            }
        }
        Ok(WaitFor::Nothing)
    }

    /// Takes chains until there is room for the longest packet.
    fn gather(&mut self) -> Result<(), QueueError> {
        let length = |room: &Room<'_>| room.header.len() + room.data.len();
        let parts = |room: &Room<'_>| room.header.parts().len() + room.data.parts().len();
        let mut bytes: usize = self.rooms.iter().map(length).sum();
        let mut count: usize = self.rooms.iter().map(parts).sum();
        while self.rooms.is_empty() || self.merges && bytes < header::SIZE + MAX_PACKET {
            let Some(room) = self.next_room()? else {
                break;
            };
            // Splitting off the header can make one more part.
            count += parts(&room) + 1;
            if count + OWN_PARTS > MAX_PARTS && !self.rooms.is_empty() {
                self.queue.unpop();
                break;
            }
            bytes += length(&room);
            self.rooms.push_back(room);
        }
        Ok(())
    }

    fn next_room(&mut self) -> Result<Option<Room<'m>>, QueueError> {
        let Some(chain) = self.queue.pop(self.memory)? else {
            return Ok(None);
        };
        let Chain {
            head,
            readable,
            writable,
        } = chain;
        if !readable.is_empty() {
            return Err(self.queue.bad_chain(head, "has something to read"));
        }
        if writable.len() < header::SIZE {
            let problem = "is shorter than a packet's header";
            return Err(self.queue.bad_chain(head, problem));
        }
        Ok(Some(Room {
            head,
            header: Buffers::default(),
            data: writable,
        }))
    }

    /// Reads a packet into the rooms and, beyond them, the spill.
    fn receive(&mut self, tap: &TapQueue) -> io::Result<Packet> {
        if let Some(first) = self.rooms.front_mut()
            && first.header.is_empty()
        {
            first.header = first.data.take(header::SIZE);
        }
        let mut bytes = [0; header::SIZE];
        let mut vector = Vector::with_capacity(self.rooms.len() + OWN_PARTS);
        vector.push(&mut bytes);
        for room in &self.rooms {
            vector.extend(&room.data);
        }
        vector.push(&mut self.spill);
        let count = tap.receive(&mut vector)?;
        Ok(Packet {
            header: Header::from_bytes(bytes),
            length: count.checked_sub(header::SIZE),
        })
    }

    /// Gives the guest a packet that has been read, or as much of it as there is room for.
    fn deliver(&mut self, packet: Packet) -> Result<(), QueueError> {
        // The kernel gives no packet without a header.
        let Some(mut left) = packet.length else {
            return Ok(());
        };
        let mut header = packet.header;
        if !self.checksums {
            header.flags = 0;
        }
        let mut used = Vec::with_capacity(self.rooms.len());
        let mut header_room = Buffers::default();
        let room = self.rooms.iter().map(|room| room.data.len()).sum::<usize>();
        if left > room && !self.merges {
            // The driver's chains are shorter than it agreed to, so the packet is lost.
            return Ok(());
        }
        while let Some(mut room) = self.rooms.pop_front() {
            let filled = left.min(room.data.len());
            left -= filled;
            if used.is_empty() {
                used.push((room.head, header::SIZE + filled));
                header_room = std::mem::take(&mut room.header);
            } else {
                used.push((room.head, filled));
            }
            if left == 0 {
                break;
            }
        }
        self.unfinished = Some(Unfinished {
            header,
            header_room,
            used,
            spilled: 0..left,
        });
        self.finish()
    }

    /// Copies the rest of a packet that spilled, and gives the packet to the guest once there is
    /// room for all of it.
    fn finish(&mut self) -> Result<(), QueueError> {
        let Some(mut packet) = self.unfinished.take() else {
            return Ok(());
        };
        while !packet.spilled.is_empty() {
            let Some(mut room) = self.next_room()? else {
                self.unfinished = Some(packet);
                return Ok(());
            };
            let written = room.data.write(&self.spill[packet.spilled.clone()]);
            packet.spilled.start += written;
            packet.used.push((room.head, written));
        }
        // No chain is shorter than a header, so the longest packet takes fewer than 6000.
        packet.header.buffers = packet.used.len() as u16;
        packet.header_room.write(&packet.header.to_bytes());
        self.queue.push_together(&packet.used)
    }
}
