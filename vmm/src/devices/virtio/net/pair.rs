//! A receive and a transmit queue at work on one queue of the tap, on a thread of theirs.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use vm_memory::GuestMemoryMmap;

use super::receive::Receiver;
use super::tap::TapQueue;
use super::transmit::Transmitter;
use crate::devices::virtio::queue::{DeviceQueue, QueueError};
use crate::devices::virtio::thread::{Stop, poll, poll_for};

/// How many packets are moved in one direction before the other has its turn.
pub(super) const BATCH: usize = 64;

/// What a direction waits for before it can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitFor {
    Nothing,
    /// A packet to be read, or room for one to be written.
    Tap,
    /// A chain of the driver.
    Driver,
}

/// Why the device stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the host's interface is gone")]
    Gone,
    #[error("reading from the host's interface: {0}")]
    Receive(io::Error),
    #[error("waiting for events: {0}")]
    Wait(io::Error),
}

/// A pair and what it waits for.
pub(super) struct Pair<'m> {
    tap: &'m TapQueue,
    receiver: Receiver<'m>,
    transmitter: Transmitter<'m>,
    receiving: WaitFor,
    transmitting: WaitFor,
}

impl<'m> Pair<'m> {
    /// `features` are those that the driver accepted.
    pub(super) fn new(
        tap: &'m TapQueue,
        [receive, transmit]: [DeviceQueue; 2],
        memory: &'m GuestMemoryMmap,
        features: u64,
    ) -> Pair<'m> {
        Pair {
            tap,
            receiver: Receiver::new(receive, memory, features),
            transmitter: Transmitter::new(transmit, memory, features),
            receiving: WaitFor::Nothing,
            transmitting: WaitFor::Nothing,
        }
    }

    /// Works until told to stop, or until it can't go on.
    pub(super) fn run(&mut self, stop: &Stop) -> Result<(), Failure> {
        while !stop.requested() {
            let attached = self.serve()?;
            let busy = [self.receiving, self.transmitting].contains(&WaitFor::Nothing);
            if !attached || !busy {
                self.wait(attached, stop)?;
            }
        }
        Ok(())
    }

    /// Drops what the guest sends, until told to stop.
    pub(super) fn discard(&mut self, stop: &Stop) -> Result<(), Failure> {
        loop {
            let sent = self.transmitter.queue().notify().as_raw_fd();
            self.transmitter.discard(stop)?;
            if !stop.wait(&[sent]).map_err(Failure::Wait)? {
                return Ok(());
            }
            self.transmitter.queue().acknowledge();
        }
    }

    /// Moves some packets in both directions, if the host uses the tap's queue. Returns
    /// whether it does.
    fn serve(&mut self) -> Result<bool, Failure> {
        let attached = self.tap.attached();
        if *attached {
            if self.receiving == WaitFor::Nothing {
                self.receiving = self.receiver.serve(self.tap)?;
            }
            if self.transmitting == WaitFor::Nothing {
                self.transmitting = self.transmitter.serve(self.tap)?;
            }
        }
        Ok(*attached)
    }

    fn wait(&mut self, attached: bool, stop: &Stop) -> Result<(), Failure> {
        // Negative ones are passed over.
        let only_if = |wanted: bool, file: RawFd| if wanted { file } else { -1 };
        let receiver = self.receiver.queue().notify().as_raw_fd();
        let transmitter = self.transmitter.queue().notify().as_raw_fd();
        let mut packets = 0;
        if self.receiving == WaitFor::Tap {
            packets |= libc::POLLIN;
        }
        if self.transmitting == WaitFor::Tap {
            packets |= libc::POLLOUT;
        }
        let awaits_rooms = attached && self.receiving == WaitFor::Driver;
        let awaits_chains = attached && self.transmitting == WaitFor::Driver;
        let mut polled = [
            poll_for(stop.event().as_raw_fd(), libc::POLLIN),
            poll_for(self.tap.changed().as_raw_fd(), libc::POLLIN),
            poll_for(only_if(awaits_rooms, receiver), libc::POLLIN),
            poll_for(only_if(awaits_chains, transmitter), libc::POLLIN),
            // Whatever it is polled for, it tells of its end.
            poll_for(only_if(attached, self.tap.file().as_raw_fd()), packets),
        ];
        poll(&mut polled).map_err(Failure::Wait)?;
        let [_, changed, rooms, chains, tap] = polled.map(|file| file.revents);
        if changed != 0 {
            // Nothing to read means that there is nothing to take.
            let _ = self.tap.changed().read();
        }
        if rooms != 0 {
            self.receiver.queue().acknowledge();
            self.receiving = WaitFor::Nothing;
        }
        if chains != 0 {
            self.transmitter.queue().acknowledge();
            self.transmitting = WaitFor::Nothing;
        }
        if tap & libc::POLLIN != 0 {
            self.receiving = WaitFor::Nothing;
        }
        if tap & libc::POLLOUT != 0 {
            self.transmitting = WaitFor::Nothing;
        }
        if tap & !(libc::POLLIN | libc::POLLOUT) != 0 {
            // It may have been detached, which looks the same.
            let attached = self.tap.attached();
            if *attached && self.tap.is_gone() {
                return Err(Failure::Gone);
            }
        }
        Ok(())
    }
}
