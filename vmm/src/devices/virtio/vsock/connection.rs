//! One connection: the guest's socket on one side, a Unix socket on the other.
//!
//! Bytes go directly between guest memory and the Unix socket. Only what that socket doesn't accept
//! at once waits here, and credit (virtio 1.3, section 5.10.6.3) limits it: the guest may have sent
//! at most [`RECEIVE_WINDOW`] bytes more than the socket has accepted. In the other direction
//! nothing waits here: bytes are read from the socket when the guest has both a buffer and room for
//! them.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use super::packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use crate::devices::virtio::buffers::Buffers;

/// How many bytes of a connection the guest may have sent that the host's socket hasn't accepted:
/// four of Linux' largest packets.
pub(super) const RECEIVE_WINDOW: u32 = 256 << 10;

/// A packet for the guest, as far as the connection determines it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) operation: Operation,
    pub(super) length: usize,
    pub(super) flags: u32,
}

impl Packet {
    fn without_data(operation: Operation) -> Packet {
        Packet {
            operation,
            length: 0,
            flags: 0,
        }
    }
}

/// The guest violated the protocol: the connection ends with a reset.
#[derive(Debug)]
pub(super) struct Violation;

/// How far the conversation with the guest has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its request hasn't been answered yet.
    Requested,
    /// The same, and the answer will be followed by a reset.
    RequestedAndOver,
    Open,
    /// It gets a reset, and nothing after that.
    Over,
    /// No more packets go to it. What it sent may still wait for the host.
    Gone,
}

/// The stream that comes from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FromHost {
    /// Reading may return something, or the end.
    Ready,
    /// Everything that was there has been read.
    Drained,
    /// The end was read.
    Ended,
}

/// The stream that goes to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToHost {
    Open,
    /// The host has closed its end, whose last bytes may not have been read yet.
    Closed,
    /// The host accepts no more.
    Refused,
}

/// What has been passed on when the socket was readable, writable or closed.
#[derive(Debug, Clone, Copy)]
pub(super) struct SocketEvent {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) closed: bool,
}

/// The state of a connection.
pub(super) struct Connection {
    socket: UnixStream,
    phase: Phase,
    from_host: FromHost,
    to_host: ToHost,

    /// What the guest sent and the socket hasn't accepted.
    waiting: VecDeque<u8>,
    /// Bytes that the guest sent, and bytes that left `waiting` (or never were in it). Both wrap,
    /// like all counters here.
    received: u32,
    forwarded: u32,
    /// The value of `forwarded` that the guest knows.
    announced: u32,

    /// Bytes sent to the guest.
    sent: u32,
    /// What the guest last said about its own buffer.
    guest_window: u32,
    guest_forwarded: u32,

    /// The `SHUTDOWN_…` flags that the guest sent, that were passed on to the socket, and that were
    /// sent to the guest.
    guest_shutdown: u32,
    passed_on: u32,
    told: u32,

    /// Whether the guest has to be told how much has been forwarded, and whether it has been asked
    /// the same.
    owes_credit: bool,
    asked_for_credit: bool,
}

impl Connection {
    /// Accepts a connection that the guest has just requested.
    pub(super) fn accept(socket: UnixStream, request: &Header) -> Connection {
        Connection {
            socket,
            phase: Phase::Requested,
            from_host: FromHost::Ready,
            to_host: ToHost::Open,
            waiting: VecDeque::new(),
            received: 0,
            forwarded: 0,
            announced: 0,
            sent: 0,
            guest_window: request.buffer_size,
            guest_forwarded: request.forwarded,
            guest_shutdown: 0,
            passed_on: 0,
            told: 0,
            owes_credit: false,
            asked_for_credit: false,
        }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Returns how many bytes the socket has accepted, for the header of each packet to the guest.
    pub(super) fn announce(&mut self) -> u32 {
        self.announced = self.forwarded;
        self.owes_credit = false;
        self.forwarded
    }

    /// Returns whether the connection is gone for the guest, however much remains to be delivered.
    pub(super) fn is_gone_for_guest(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Returns whether something waits until the socket accepts more.
    pub(super) fn waits_for_host(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns whether nothing remains to be done; dropping the connection then loses nothing.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Gone && self.waiting.is_empty()
    }

    /// Handles a packet from the guest, with the payload `data`.
    pub(super) fn handle_packet(
        &mut self,
        header: &Header,
        data: Buffers<'_>,
    ) -> Result<(), Violation> {
        if self.is_ending() {
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
                // What it sent before is still delivered: Linux stops waiting for our reset 8
                // seconds after a close, however slowly the host reads.
                self.phase = Phase::Gone;
                self.guest_shutdown = SHUTDOWN_BOTH;
            }
            Some(Operation::Request | Operation::Response) | None => return Err(Violation),
        }
        self.settle();
        Ok(())
    }

    /// Resets the connection, as the guest violated the protocol. What it sent before is delivered.
    pub(super) fn abort(&mut self) {
        self.end();
        self.guest_shutdown = SHUTDOWN_BOTH;
        self.settle();
    }

    /// Has the guest get a reset, if it doesn't know of the end yet.
    fn end(&mut self) {
        self.phase = match self.phase {
            Phase::Requested | Phase::RequestedAndOver => Phase::RequestedAndOver,
            Phase::Open | Phase::Over => Phase::Over,
            Phase::Gone => Phase::Gone,
        };
    }

    /// Returns whether the guest gets a reset.
    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::RequestedAndOver | Phase::Over)
    }

    fn take_data(&mut self, mut data: Buffers<'_>) -> Result<(), Violation> {
        let length = u32::try_from(data.len()).map_err(|_| Violation)?;
        let outstanding = self.received.wrapping_sub(self.forwarded);
        if length > RECEIVE_WINDOW - outstanding || self.guest_shutdown & SHUTDOWN_SEND != 0 {
            return Err(Violation);
        }
        self.received = self.received.wrapping_add(length);
        if self.waiting.is_empty() && self.to_host != ToHost::Refused {
            match data.send(self.socket.as_fd()) {
                Ok(count) => {
                    data.take(count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.to_host = ToHost::Refused,
            }
        }
        if self.to_host == ToHost::Refused {
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

    /// Handles an event of the socket.
    pub(super) fn handle_event(&mut self, event: SocketEvent) {
        if event.readable && self.from_host == FromHost::Drained {
            self.from_host = FromHost::Ready;
        }
        // If the guest's direction was closed, the socket is closed in both once the host's is.
        let closed = event.closed && self.passed_on & SHUTDOWN_SEND == 0;
        if closed && self.to_host == ToHost::Open {
            self.to_host = ToHost::Closed;
        }
        if event.writable {
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
                    self.to_host = ToHost::Refused;
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
            // An error means that the host's end is gone, and so doesn't need to be told.
            let _ = self.socket.shutdown(Shutdown::Read);
            self.passed_on |= SHUTDOWN_RECEIVE;
        }
        if due & SHUTDOWN_SEND != 0 && self.waiting.is_empty() {
            let _ = self.socket.shutdown(Shutdown::Write);
            self.passed_on |= SHUTDOWN_SEND;
        }
        // Both sides of the guest's socket are closed and all its data is delivered: the guest
        // waits for a reset as the answer (5.10.6.6.1).
        if self.passed_on == SHUTDOWN_BOTH {
            self.end();
        }
    }

    /// Returns how many bytes the guest has room for, by what it last said.
    fn credit(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.guest_forwarded);
        self.guest_window.saturating_sub(in_flight)
    }

    fn wants_to_read(&self) -> bool {
        self.from_host == FromHost::Ready && self.guest_shutdown & SHUTDOWN_RECEIVE == 0
    }

    /// Returns the `SHUTDOWN_…` flags that the guest should know.
    fn host_shutdown(&self) -> u32 {
        let ended = self.from_host == FromHost::Ended;
        let refused = match self.to_host {
            ToHost::Open => false,
            ToHost::Closed => ended,
            ToHost::Refused => true,
        };
        let mut flags = 0;
        if ended {
            flags |= SHUTDOWN_SEND;
        }
        if refused {
            flags |= SHUTDOWN_RECEIVE;
        }
        flags
    }

    /// Returns whether [`Self::next_packet`] is worth a buffer of the guest.
    pub(super) fn has_something(&self) -> bool {
        match self.phase {
            Phase::Requested | Phase::RequestedAndOver | Phase::Over => true,
            Phase::Gone => false,
            Phase::Open => {
                self.owes_credit
                    || self.host_shutdown() & !self.told != 0
                    || self.wants_to_read() && (self.credit() > 0 || !self.asked_for_credit)
            }
        }
    }

    /// Returns the next packet for the guest, its data in `room`, which isn't empty.
    pub(super) fn next_packet(&mut self, room: &Buffers<'_>) -> Option<Packet> {
        let (operation, next) = match self.phase {
            Phase::Requested => (Operation::Response, Phase::Open),
            Phase::RequestedAndOver => (Operation::Response, Phase::Over),
            Phase::Over => (Operation::Reset, Phase::Gone),
            Phase::Gone => return None,
            Phase::Open => return self.next_of_open(room),
        };
        self.phase = next;
        Some(Packet::without_data(operation))
    }

    fn next_of_open(&mut self, room: &Buffers<'_>) -> Option<Packet> {
        if self.wants_to_read() {
            let credit = self.credit();
            if credit > 0 {
                match room.receive(self.socket.as_fd(), credit as usize) {
                    Ok(0) => self.from_host = FromHost::Ended,
                    Ok(length) => {
                        self.sent = self.sent.wrapping_add(length as u32);
                        return Some(Packet {
                            operation: Operation::Data,
                            length,
                            flags: 0,
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.from_host = FromHost::Drained;
                    }
                    // The host's end was closed with unread data in it.
                    Err(_) => self.from_host = FromHost::Ended,
                }
            } else if !self.asked_for_credit {
                self.asked_for_credit = true;
                return Some(Packet::without_data(Operation::CreditRequest));
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
            .then(|| Packet::without_data(Operation::CreditUpdate))
    }
}

/// Enlarges a socket's buffer so that it accepts everything that a connection can hold for it, in
/// addition to what it already has.
fn make_room(socket: &UnixStream) {
    let size = 2 * RECEIVE_WINDOW as libc::c_int;
    // A process without the privilege for the first option gets the limit for everybody.
    for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
        // SAFETY: the value lives as long as the call, which gets its length.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of_val(&size) as libc::socklen_t,
            )
        };
        if set == 0 {
            return;
        }
    }
}

impl Drop for Connection {
    /// Leaves the waiting bytes to the host's end, and makes that see an end of file then instead
    /// of `ECONNRESET`, which a socket gets if its peer is closed before having read everything.
    fn drop(&mut self) {
        if self.waits_for_host() {
            make_room(&self.socket);
            self.flush();
        }
        let _ = self.socket.shutdown(Shutdown::Both);
        // Nothing can be added any more, so this ends after what was in the socket's buffer.
        let mut discarded = [0; 4096];
        while matches!(self.socket.read(&mut discarded), Ok(count) if count > 0) {}
    }
}
