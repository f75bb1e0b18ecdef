//! The loop that moves packets between the queues and the connections.
//!
//! Two rules keep it from spinning and from being held up. It waits unless there is work that it
//! can do at once: sockets are watched edge-triggered, and a queue without buffers is waited for.
//! And no connection waits for another: each has its own credit towards the host, and those that
//! have something for the guest take turns, one packet each.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, RECEIVE_WINDOW, SocketEvent};
use super::packet::{HEADER_SIZE, HOST_CID, Header, Operation, TYPE_STREAM};
use super::ports::{Expected, MAX_CONNECTIONS, PORT_ANY};
use crate::devices::virtio::buffers::Buffers;
use crate::devices::virtio::queue::{Chain, DeviceQueue, QueueError};
use crate::devices::virtio::thread::Stop;

/// How many chains of one queue are handled before the other gets its turn.
const BATCH: usize = 128;

/// How many resets may wait for a buffer of the guest. When there are that many, the guest's
/// packets wait in its queue until it takes some.
const MAX_RESETS: usize = 64;

/// How many events are taken at a time.
const EVENTS: usize = 64;

// Event data for what isn't a connection. No connection has it: no host port is `PORT_ANY`.
const STOP: u64 = u64::MAX;
const RECEIVE: u64 = u64::MAX - 1;
const TRANSMIT: u64 = u64::MAX - 2;
const EXPECTED: u64 = u64::MAX - 3;

/// Why the device stopped.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("waiting for events: {0}")]
    Wait(io::Error),
}

/// A connection's two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    host_port: u32,
    guest_port: u32,
}

impl Key {
    fn token(self) -> u64 {
        u64::from(self.host_port) << 32 | u64::from(self.guest_port)
    }

    fn from_token(token: u64) -> Key {
        Key {
            host_port: (token >> 32) as u32,
            guest_port: token as u32,
        }
    }
}

/// Returns the events of a socket that is read.
fn socket_events() -> EventSet {
    EventSet::IN | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED
}

/// A connection, and how it is served.
struct Served {
    connection: Connection,
    /// Whether it is in line to send something.
    in_line: bool,
    /// Whether its socket is watched for room.
    watched_for_room: bool,
}

/// The running device.
pub(super) struct Worker {
    guest_cid: u64,
    memory: Arc<GuestMemoryMmap>,
    receive: DeviceQueue,
    transmit: DeviceQueue,
    epoll: Epoll,
    expected: Arc<Mutex<Expected>>,
    connections: HashMap<Key, Served>,
    /// Connections that have something for the guest, each at most once.
    line: VecDeque<Key>,
    /// Answers to packets for connections that don't exist.
    resets: VecDeque<Header>,
}

impl Worker {
    pub(super) fn new(
        guest_cid: u64,
        memory: Arc<GuestMemoryMmap>,
        [receive, transmit]: [DeviceQueue; 2],
        expected: Arc<Mutex<Expected>>,
    ) -> io::Result<Worker> {
        let epoll = Epoll::new()?;
        for (queue, token) in [(&receive, RECEIVE), (&transmit, TRANSMIT)] {
            epoll.ctl(
                ControlOperation::Add,
                queue.notify().as_raw_fd(),
                EpollEvent::new(EventSet::IN, token),
            )?;
        }
        Ok(Worker {
            guest_cid,
            memory,
            receive,
            transmit,
            epoll,
            expected,
            connections: HashMap::new(),
            line: VecDeque::new(),
            resets: VecDeque::new(),
        })
    }

    /// Works until told to stop, or until a queue turns out to be broken.
    pub(super) fn run(&mut self, stop: &Stop) -> Result<(), Failure> {
        self.epoll
            .ctl(
                ControlOperation::Add,
                stop.event().as_raw_fd(),
                EpollEvent::new(EventSet::IN, STOP),
            )
            .map_err(Failure::Wait)?;
        let expected = lock(&self.expected).as_raw_fd();
        self.epoll
            .ctl(
                ControlOperation::Add,
                expected,
                EpollEvent::new(EventSet::IN, EXPECTED),
            )
            .map_err(Failure::Wait)?;
        self.receive.pause_notifications()?;
        let mut events = [EpollEvent::default(); EVENTS];
        // The driver may have filled its queues before the waiting began.
        let mut busy = true;
        while !stop.requested() {
            let timeout = if busy { 0 } else { -1 };
            let count = match self.epoll.wait(timeout, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(Failure::Wait(error)),
            };
            for event in &events[..count] {
                self.take_event(event);
            }
            // Always both: an answer may need one queue to free the other.
            let more_from_guest = self.serve_transmit()?;
            let more_to_guest = self.serve_receive()?;
            self.transmit.signal()?;
            self.receive.signal()?;
            busy = more_from_guest && self.resets.len() < MAX_RESETS || more_to_guest;
        }
        Ok(())
    }

    fn take_event(&mut self, event: &EpollEvent) {
        match event.data() {
            STOP => {}
            RECEIVE => self.receive.acknowledge(),
            TRANSMIT => self.transmit.acknowledge(),
            EXPECTED => self.hear_expected(),
            token => {
                let key = Key::from_token(token);
                // An earlier event may have ended it.
                if let Some(Served { connection, .. }) = self.connections.get_mut(&key) {
                    let set = event.event_set();
                    let closed = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
                    let readable = set.intersects(EventSet::IN | EventSet::READ_HANG_UP) || closed;
                    let writable = set.contains(EventSet::OUT) || closed;
                    connection.handle_event(SocketEvent {
                        readable,
                        writable,
                        closed,
                    });
                    self.after_change(key);
                }
            }
        }
    }

    /// Hears what the host expects, unless there is nobody any more who could.
    fn hear_expected(&mut self) {
        let mut expected = lock(&self.expected);
        if !expected.hear() {
            let (file, nothing) = (expected.as_raw_fd(), EpollEvent::default());
            // Removing an entry of the set can't fail.
            let _ = self.epoll.ctl(ControlOperation::Delete, file, nothing);
        }
    }

    /// Puts a connection that has something to send in line, has its socket watched for what it
    /// waits for, and removes it if it is over.
    fn after_change(&mut self, key: Key) {
        let Some(served) = self.connections.get_mut(&key) else {
            return;
        };
        let connection = &served.connection;
        if connection.is_over() {
            // Closing the socket removes it from the epoll set.
            self.connections.remove(&key);
            return;
        }
        if connection.has_something() && !served.in_line {
            served.in_line = true;
            self.line.push_back(key);
        }
        // A socket that is being read has room again and again, which matters only if it is waited
        // for.
        let waits = connection.waits_for_host();
        if waits != served.watched_for_room {
            let socket = connection.socket().as_raw_fd();
            let mut events = socket_events();
            events.set(EventSet::OUT, waits);
            let event = EpollEvent::new(events, key.token());
            // Modifying an entry of the set can't fail.
            let _ = self.epoll.ctl(ControlOperation::Modify, socket, event);
            served.watched_for_room = waits;
        }
    }

    /// Takes packets from the guest. Returns true if there may be more.
    fn serve_transmit(&mut self) -> Result<bool, Failure> {
        let memory = Arc::clone(&self.memory);
        self.transmit.pause_notifications()?;
        for _ in 0..BATCH {
            if self.resets.len() >= MAX_RESETS {
                return Ok(true);
            }
            match self.transmit.pop(&memory)? {
                Some(chain) => {
                    let head = chain.head;
                    self.take_packet(chain)?;
                    self.transmit.push(head, 0)?;
                }
                None if self.transmit.resume_notifications()? => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn take_packet(&mut self, chain: Chain<'_>) -> Result<(), QueueError> {
        let mut packet = chain.readable;
        if !chain.writable.is_empty() {
            return Err(self
                .transmit
                .bad_chain(chain.head, "has something to write"));
        }
        let Some(header) = Header::read(&mut packet) else {
            return Err(self
                .transmit
                .bad_chain(chain.head, "is shorter than a packet's header"));
        };
        let data = packet.take(header.length as usize);
        if data.len() < header.length as usize {
            return Err(self
                .transmit
                .bad_chain(chain.head, "is shorter than its packet says"));
        }
        if header.source_cid != self.guest_cid {
            // There is nobody to answer.
            return Ok(());
        }
        let key = Key {
            host_port: header.destination_port,
            guest_port: header.source_port,
        };
        let for_host = header.destination_cid == HOST_CID && header.kind == TYPE_STREAM;
        let served = self.connections.get_mut(&key);
        let connection = served.map(|served| &mut served.connection);
        if for_host && let Some(connection) = connection.filter(|known| !known.is_gone_for_guest())
        {
            if connection.handle_packet(&header, data).is_err() {
                connection.abort();
            }
            self.after_change(key);
        } else if header.operation == Some(Operation::Reset) {
            // It isn't answered, as two sides could otherwise answer each other for ever.
        } else if !for_host || !self.open(key, &header) {
            self.resets.push_back(header);
        }
        Ok(())
    }

    /// Opens the connection that the packet requests, if it requests one and that is expected.
    fn open(&mut self, key: Key, request: &Header) -> bool {
        if request.operation != Some(Operation::Request)
            || key.host_port == PORT_ANY
            || self.connections.len() >= MAX_CONNECTIONS
            || self.connections.contains_key(&key)
        {
            return false;
        }
        let Some(socket) = lock(&self.expected).take(key.host_port) else {
            return false;
        };
        let watched = self.epoll.ctl(
            ControlOperation::Add,
            socket.as_raw_fd(),
            EpollEvent::new(socket_events(), key.token()),
        );
        if watched.is_err() {
            // The host has no memory for it. Its end sees an end of file.
            return false;
        }
        let served = Served {
            connection: Connection::accept(socket, request),
            in_line: false,
            watched_for_room: false,
        };
        self.connections.insert(key, served);
        self.after_change(key);
        true
    }

    /// Gives packets to the guest. Returns true if there are more, and possibly buffers for them.
    fn serve_receive(&mut self) -> Result<bool, Failure> {
        let memory = Arc::clone(&self.memory);
        for _ in 0..BATCH {
            if self.resets.is_empty() && self.line.is_empty() {
                return Ok(false);
            }
            let Some(chain) = self.receive.pop(&memory)? else {
                if self.receive.resume_notifications()? {
                    continue;
                }
                return Ok(false);
            };
            self.receive.pause_notifications()?;
            let mut room = chain.writable;
            if !chain.readable.is_empty() || room.len() <= HEADER_SIZE {
                return Err(self
                    .receive
                    .bad_chain(chain.head, "has no room for a packet")
                    .into());
            }
            let mut header_room = room.take(HEADER_SIZE);
            let Some(header) = self.next_packet(&room) else {
                self.receive.unpop();
                return Ok(false);
            };
            header_room.write(&header.bytes());
            self.receive
                .push(chain.head, HEADER_SIZE + header.length as usize)?;
        }
        Ok(true)
    }

    /// Returns the next packet for the guest, its data in `room`.
    fn next_packet(&mut self, room: &Buffers<'_>) -> Option<Header> {
        if let Some(refused) = self.resets.pop_front() {
            return Some(Header {
                source_cid: refused.destination_cid,
                destination_cid: self.guest_cid,
                source_port: refused.destination_port,
                destination_port: refused.source_port,
                length: 0,
                kind: refused.kind,
                operation: Some(Operation::Reset),
                flags: 0,
                buffer_size: 0,
                forwarded: 0,
            });
        }
        while let Some(key) = self.line.pop_front() {
            let Some(served) = self.connections.get_mut(&key) else {
                continue;
            };
            served.in_line = false;
            let connection = &mut served.connection;
            let packet = connection.next_packet(room);
            let forwarded = packet.is_some().then(|| connection.announce());
            self.after_change(key);
            if let (Some(packet), Some(forwarded)) = (packet, forwarded) {
                return Some(Header {
                    source_cid: HOST_CID,
                    destination_cid: self.guest_cid,
                    source_port: key.host_port,
                    destination_port: key.guest_port,
                    length: packet.length as u32,
                    kind: TYPE_STREAM,
                    operation: Some(packet.operation),
                    flags: packet.flags,
                    buffer_size: RECEIVE_WINDOW,
                    forwarded,
                });
            }
        }
        None
    }
}

fn lock(expected: &Mutex<Expected>) -> MutexGuard<'_, Expected> {
    // Each change is a single step, so it is consistent whoever panicked.
    expected.lock().unwrap_or_else(PoisonError::into_inner)
}
