//! Runs a receive and a transmit queue on one queue of the tap, on a thread of their own.

use std::os::fd::AsRawFd;

use vm_memory::GuestMemoryMmap;

use super::receive::Receiver;
use super::tap::TapQueue;
use super::transmit::Transmitter;
use super::turn::{Failure, WaitFor};
use crate::devices::virtio::queue::DeviceQueue;
use crate::devices::virtio::thread::Stop;
use crate::devices::virtio::throttle::Brake;
use crate::wait::Wait;

/// What a pair can be woken by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Stop,
    /// The tap's queue was attached or detached.
    Attachment,
    /// The driver has room for packets.
    Rooms,
    /// The driver has packets to send.
    Chains,
    Tap,
    /// The guest may be given more.
    MayReceive,
    /// The guest may send more.
    MaySend,
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
    /// Makes a pair; `features` are those that the driver accepted.
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

    /// Keeps the two directions to what they may do.
    pub(super) fn with_brakes(self, [receive, transmit]: [Brake; 2]) -> Pair<'m> {
        Pair {
            receiver: self.receiver.with_brake(receive),
            transmitter: self.transmitter.with_brake(transmit),
            ..self
        }
    }

    /// Works until told to stop, or until it can't continue.
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

    /// Moves some packets in both directions, if the host uses the tap's queue. Returns whether it
    /// does.
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
        let mut packets = 0;
        if self.receiving == WaitFor::Tap {
            packets |= libc::POLLIN;
        }
        if self.transmitting == WaitFor::Tap {
            packets |= libc::POLLOUT;
        }
        let mut wait = Wait::with_capacity(7);
        wait.readable(Event::Stop, stop.event());
        wait.readable(Event::Attachment, self.tap.changed());
        if attached {
            if self.receiving == WaitFor::Driver {
                wait.readable(Event::Rooms, self.receiver.queue().notify());
            }
            if self.transmitting == WaitFor::Driver {
                wait.readable(Event::Chains, self.transmitter.queue().notify());
            }
            let brakes = [
                (Event::MayReceive, self.receiving, self.receiver.brake()),
                (Event::MaySend, self.transmitting, self.transmitter.brake()),
            ];
            for (event, waits_for, brake) in brakes {
                if let (WaitFor::Limit, Some(timer)) = (waits_for, brake.timer()) {
                    wait.readable(event, timer);
                }
            }
            // Whatever it is waited for, its end is reported.
            wait.add(Event::Tap, self.tap.file(), packets);
        }
        let ready = wait.wait().map_err(Failure::Wait)?;
        if ready.has(Event::Attachment) {
            // If nothing can be read, there is nothing to take.
            let _ = self.tap.changed().read();
        }
        if ready.has(Event::Rooms) {
            self.receiver.queue().acknowledge();
            self.receiving = WaitFor::Nothing;
        }
        if ready.has(Event::Chains) {
            self.transmitter.queue().acknowledge();
            self.transmitting = WaitFor::Nothing;
        }
        if ready.has(Event::MayReceive) {
            self.receiving = WaitFor::Nothing;
        }
        if ready.has(Event::MaySend) {
            self.transmitting = WaitFor::Nothing;
        }
        let tap = ready.events(Event::Tap);
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
