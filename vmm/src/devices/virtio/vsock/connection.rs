//! One connection: the guest's socket on one side, a Unix socket on the other.
//!
//! Bytes go straight between guest memory and the Unix socket. Only what that socket doesn't
//! take at once waits here, and credit (virtio 1.3, section 5.10.6.3) keeps it bounded: the
//! guest may have sent [`RECEIVE_WINDOW`] bytes more than the socket has taken. In the other
//! direction nothing waits here: bytes are read from the socket when the guest has both a
//! buffer and room for them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::devices::virtio::buffers::Buffers;

/// How many bytes of a connection the guest may have sent that the host's socket hasn't taken:
/// four of Linux' largest packets.
pub(super) const RECEIVE_WINDOW: u32 = 256 << 10;

/// A packet for the guest, as far as the connection knows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) operation: Operation,
    pub(super) length: usize,
    pub(super) flags: u32,
}

impl Packet {
    fn of(operation: Operation) -> Packet {
        Packet {
            operation,
            length: 0,
            flags: 0,
        }
    }
}

/// The guest broke the protocol: the connection ends with a reset.
#[derive(Debug)]
pub(super) struct Violation;

/// The state of a connection.
pub(super) struct Connection {
    socket: UnixStream,

    /// What the guest sent and the socket hasn't taken.
    waiting: VecDeque<u8>,
    /// Bytes that the guest sent, and bytes that left `waiting` (or never were in it). Both
    /// wrap, as does all that is counted here.
    received: u32,
    forwarded: u32,
    /// The value of `forwarded` that the guest knows.
    announced: u32,
    /// The host's end takes no more.
    host_deaf: bool,

    /// Bytes sent to the guest.
    sent: u32,
    /// What the guest said of its own buffer.
    guest_window: u32,
    guest_forwarded: u32,
    /// Reading from the socket may give something, or its end.
    readable: bool,
    /// The socket's end was read.
    host_silent: bool,
    /// Both directions were closed by the host's end.
    host_closed: bool,

    /// `SHUTDOWN_…` that the guest said, that the socket knows, and that we said to the guest.
    guest_shutdown: u32,
    passed_on: u32,
    told: u32,

    owes_response: bool,
    owes_reset: bool,
    owes_credit: bool,
    asked_for_credit: bool,
    /// No packet goes to the guest any more.
    guest_gone: bool,
    /// For the worker: the connection stands in the line of those that have something to
    /// send; the socket is watched for room.
    pub(super) in_line: bool,
    pub(super) watched_for_room: bool,
}

impl Connection {
    /// A connection that the guest has just asked for.
    pub(super) fn accept(socket: UnixStream, request: &Header) -> Connection {
        Connection {
            socket,
            waiting: VecDeque::new(),
            received: 0,
            forwarded: 0,
            announced: 0,
            host_deaf: false,
            sent: 0,
            guest_window: request.buffer_size,
            guest_forwarded: request.forwarded,
            readable: true,
            host_silent: false,
            host_closed: false,
            guest_shutdown: 0,
            passed_on: 0,
            told: 0,
            owes_response: true,
            owes_reset: false,
            owes_credit: false,
            asked_for_credit: false,
            guest_gone: false,
            in_line: false,
            watched_for_room: false,
        }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Bytes that the socket has taken, to be put in the header of each packet for the guest.
    pub(super) fn announce(&mut self) -> u32 {
        self.announced = self.forwarded;
        self.owes_credit = false;
        self.forwarded
    }

    /// For the guest the connection doesn't exist any more, however much is still to deliver.
    pub(super) fn is_gone_for_guest(&self) -> bool {
        self.guest_gone
    }

    /// Whether something waits until the socket takes more.
    pub(super) fn waits_for_host(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Nothing is left to be done; dropping the connection loses nothing.
    pub(super) fn is_over(&self) -> bool {
        self.guest_gone && self.waiting.is_empty()
    }

    /// A packet of the guest, `data` its payload.
    pub(super) fn handle_packet(
        &mut self,
        header: &Header,
        data: Buffers<'_>,
    ) -> Result<(), Violation> {
        if self.owes_reset {
            return Ok(());
        }
        self.guest_window = header.buffer_size;
        self.guest_forwarded = header.forwarded;
        if self.credit() > 0 {
            self.asked_for_credit = false;
        }
        match header.operation {
            Some(Operation::Data) => self.take_data(data)?,
            Some(Operation::CreditUpdate) => {}
            Some(Operation::CreditRequest) => self.owes_credit = true,
            Some(Operation::Shutdown) => self.guest_shutdown |= header.flags & SHUTDOWN_BOTH,
            Some(Operation::Reset) => {
                // What it sent before is still delivered: Linux gives up waiting for our reset
                // 8 seconds after a close, however slow the host reads.
                self.guest_gone = true;
                self.guest_shutdown = SHUTDOWN_BOTH;
            }
            Some(Operation::Request | Operation::Response) | None => return Err(Violation),
        }
        self.settle();
        Ok(())
    }

    /// The guest broke the protocol: reset it. What it sent before is delivered.
    pub(super) fn abort(&mut self) {
        self.owes_reset = true;
        self.guest_shutdown = SHUTDOWN_BOTH;
        self.settle();
    }

    fn take_data(&mut self, mut data: Buffers<'_>) -> Result<(), Violation> {
        let length = u32::try_from(data.len()).map_err(|_| Violation)?;
        let outstanding = self.received.wrapping_sub(self.forwarded);
        if length > RECEIVE_WINDOW - outstanding || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            return Err(Violation);
        }
        self.received = self.received.wrapping_add(length);
        if self.waiting.is_empty() && !self.host_deaf {
            match data.send(self.socket.as_fd()) {
                Ok(count) => {
                    data.take(count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.host_deaf = true,
            }
        }
        if self.host_deaf {
            self.forwarded = self.received;
        } else if !data.is_empty() {
            if self.waiting.is_empty() {
                self.waiting = VecDeque::with_capacity(RECEIVE_WINDOW as usize);
            }
            let start = self.waiting.len();
            self.waiting.resize(start + data.len(), 0);
            let (front, back) = self.waiting.as_mut_slices();
            let in_front = start.min(front.len());
            data.read(&mut front[in_front..]);
            data.read(&mut back[start - in_front..]);
        }
        Ok(())
    }

    /// Something happened at the socket.
    pub(super) fn handle_event(&mut self, readable: bool, writable: bool, closed: bool) {
        self.readable |= readable;
        // When we have closed our direction, the socket is closed in both once the host's is.
        self.host_closed |= closed && self.passed_on & SHUTDOWN_SEND == 0;
        if writable {
            self.flush();
        }
        self.settle();
    }

    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match self.socket.write(front) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.host_deaf = true;
                    self.waiting.clear();
                    self.forwarded = self.received;
                }
            }
        }
        // Connections are many and mostly idle: an empty buffer takes no memory.
        self.waiting = VecDeque::new();
    }

    /// Does what has become due.
    fn settle(&mut self) {
        let known_used = self.received.wrapping_sub(self.announced);
        if self.forwarded != self.announced && known_used > RECEIVE_WINDOW / 2 {
            self.owes_credit = true;
        }
        let due = self.guest_shutdown & !self.passed_on;
        if due & SHUTDOWN_RECEIVE != 0 {
            // An error means that the host's end is gone, and knows.
            let _ = self.socket.shutdown(Shutdown::Read);
            self.passed_on |= SHUTDOWN_RECEIVE;
        }
        if due & SHUTDOWN_SEND != 0 && self.waiting.is_empty() {
            let _ = self.socket.shutdown(Shutdown::Write);
            self.passed_on |= SHUTDOWN_SEND;
        }
        // Both sides of the guest's socket are closed and all its data is delivered: a reset
        // is the answer that it waits for (5.10.6.6.1).
        if self.passed_on == SHUTDOWN_BOTH && !self.guest_gone {
            self.owes_reset = true;
        }
    }

    /// How many bytes the guest has room for, by what it said last.
    fn credit(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_window.saturating_sub(in_flight)
    }

    fn wants_to_read(&self) -> bool {
        self.readable && !self.host_silent && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// `SHUTDOWN_…` that the guest should know.
    fn host_shutdown(&self) -> u32 {
        let silent = if self.host_silent { SHUTDOWN_SEND } else { 0 };
        let deaf = self.host_deaf || self.host_silent && self.host_closed;
        silent | if deaf { SHUTDOWN_RECEIVE } else { 0 }
    }

    /// Whether [`Self::next_packet`] is worth a buffer of the guest.
    pub(super) fn has_something(&self) -> bool {
        !self.guest_gone
            && (self.owes_response
                || self.owes_reset
                || self.owes_credit
                || self.host_shutdown() & !self.told != 0
                || self.wants_to_read() && (self.credit() > 0 || !self.asked_for_credit))
    }

    /// The next packet for the guest, its data in `room`, of which there is some.
    pub(super) fn next_packet(&mut self, room: &Buffers<'_>) -> Option<Packet> {
        if self.guest_gone {
            return None;
        }
        if self.owes_response {
            self.owes_response = false;
            return Some(Packet::of(Operation::Response));
        }
        if self.owes_reset {
            self.guest_gone = true;
            return Some(Packet::of(Operation::Reset));
        }
        if self.wants_to_read() {
            let credit = self.credit();
            if credit > 0 {
                match room.receive(self.socket.as_fd(), credit as usize) {
                    Ok(0) => self.host_silent = true,
                    Ok(length) => {
                        self.sent = self.sent.wrapping_add(length as u32);
                        return Some(Packet {
                            operation: Operation::Data,
                            length,
                            flags: 0,
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.readable = false;
                    }
                    // The host's end was closed with something unread in it.
                    Err(_) => self.host_silent = true,
                }
            } else if !self.asked_for_credit {
                self.asked_for_credit = true;
                return Some(Packet::of(Operation::CreditRequest));
            }
        }
        let shutdown = self.host_shutdown();
        if shutdown & !self.told != 0 {
            self.told = shutdown;
            return Some(Packet {
                operation: Operation::Shutdown,
                length: 0,
                flags: shutdown,
            });
        }
        self.owes_credit
            .then(|| Packet::of(Operation::CreditUpdate))
    }
}

impl Drop for Connection {
    /// Lets the host's end see an end of file and not `ECONNRESET`, which a socket gets whose
    /// peer is closed before having read everything.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        // Nothing can be added now, so this ends after what was in the socket's buffer.
        let mut discarded = [0; 4096];
        while matches!(self.socket.read(&mut discarded), Ok(count) if count > 0) {}
    }
}
