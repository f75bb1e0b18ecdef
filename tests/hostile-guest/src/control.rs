//! The agent's end of the control connection (agent/src/protocol.rs): first as the agent would speak,
//! or nearly so, and then not.

use core::fmt::{self, Write};

use crate::memory;
use crate::random::Random;
use crate::vsock::{CREDIT, DATA, LONGEST, Packet, REQUEST, RESET, SHUTDOWN, Vsock};
use crate::words::Words;

/// How far it gets before it does something wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It does all that an agent does until the container is started, and goes on answering then.
    Patient,
    /// It says nothing.
    Silent,
    /// It says hello, but something is wrong with what comes then.
    Liar,
    /// Not even its hello is right.
    Garbage,
}

impl Mood {
    pub fn of(seed: u64) -> Mood {
        [Mood::Patient, Mood::Silent, Mood::Liar, Mood::Garbage][seed as usize % 4]
    }

    /// Whether there is nothing more to see once the control connection is gone.
    pub fn needs_vsock(self) -> bool {
        self == Mood::Patient
    }
}

/// How much the host takes before it has read it (`RECEIVE_WINDOW`).
const HOST_WINDOW: u32 = 256 << 10;

/// How much of a message from the host is kept.
const KEPT: usize = 64 << 10;

/// A connection: the control connection, or a stream of the container's.
#[derive(Clone, Copy, Default)]
struct Connection {
    host_port: u32,
    guest_port: u32,
    sent: u32,
    /// How much of it the host has read.
    forwarded: u32,
    received: u32,
    is_over: bool,
}

const CONTROL: usize = 0;
const STREAMS: [&[u8]; 3] = [b"\"stdin\":", b"\"stdout\":", b"\"stderr\":"];

pub struct Control {
    vsock: Vsock,
    mood: Mood,
    port: u32,
    version: u64,
    connections: [Connection; 4],
    incoming: [u8; KEPT],
    length: usize,
    is_started: bool,
    id: Text<64>,
}

/// Text of a limited length; what is more is left out.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Text<N> {
        Text {
            bytes: [0; N],
            length: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes().iter().take(N - self.length) {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}

const DONE: &[u8] = br#"{"reply":{"result":{"Ok":"done"}}}"#;

impl Control {
    pub fn new(vsock: Vsock, mood: Mood, words: &Words) -> Control {
        Control {
            vsock,
            mood,
            port: words.number("port").unwrap_or(1024) as u32,
            version: words.number("version").unwrap_or(0),
            connections: Default::default(),
            incoming: [0; KEPT],
            length: 0,
            is_started: false,
            id: Text::new(),
        }
    }

    /// Returns ports of the host on which somebody may wait.
    pub fn ports(words: &Words) -> [u32; 4] {
        let port = words.number("port").unwrap_or(1024) as u32;
        [port, port + 1, port + 2, 0x4000_0000]
    }

    /// Whether it has to go on before anything else is of interest.
    pub fn is_waiting(&self) -> bool {
        self.mood == Mood::Patient && !self.is_started && !self.connections[CONTROL].is_over
    }

    /// Says hello, if it does.
    pub fn begin(&mut self, random: &mut Random) {
        if self.mood == Mood::Silent {
            return;
        }
        self.connect(CONTROL, self.port);
        let mut hello = Text::<128>::new();
        let version = self.version;
        let _ = write!(hello, r#"{{"version":{version},"kernel":"hostile"}}"#);
        if self.mood == Mood::Garbage {
            self.garbage(random, hello.bytes());
        } else {
            self.say(hello.bytes());
        }
    }

    fn garbage(&mut self, random: &mut Random, hello: &[u8]) {
        let kind = random.below(9);
        say!("garbage {kind}");
        match kind {
            0 => drop(self.send(CONTROL, &u32::MAX.to_le_bytes())),
            1 => {
                let part = random.below(4 << 20) as usize;
                self.say_many(4 << 20, part, b'[');
            }
            2 => self.say_many(4 << 20, 4 << 20, random.pick(b"[{\" 9\\\0")),
            3 => self.say(b"{\"version\":"),
            4 => self.say(br#"{"version":4294967295,"kernel":"x"}"#),
            5 => self.say(b"{\"version\":4,\"kernel\":\"\\u001b[2J\\n\\u0000\"}"),
            6 => self.say(br#"{"version":99999999999999999999,"kernel":"x","kernel":"y"}"#),
            7 => {
                let mut bytes = [0; 4096];
                random.fill(&mut bytes);
                for _ in 0..random.below(64) {
                    self.send(CONTROL, &bytes);
                }
            }
            _ => {
                let length = (hello.len() as u32).to_le_bytes();
                for byte in length.iter().chain(hello) {
                    self.send(CONTROL, &[*byte]);
                }
                for _ in 0..random.below(3000) {
                    self.say(DONE);
                }
            }
        }
    }

    /// Says so many bytes, of a message that is to have `length`.
    fn say_many(&mut self, length: u32, mut count: usize, byte: u8) {
        self.send(CONTROL, &length.to_le_bytes());
        let bytes = [byte; LONGEST as usize];
        while count > 0 {
            let part = count.min(bytes.len());
            if !self.send(CONTROL, &bytes[..part]) {
                return;
            }
            count -= part;
        }
    }

    fn connect(&mut self, index: usize, host_port: u32) {
        let guest_port = 2000 + index as u32;
        self.connections[index] = Connection {
            host_port,
            guest_port,
            ..Connection::default()
        };
        self.packet(index, REQUEST, &[]);
    }

    fn packet(&mut self, index: usize, operation: u16, data: &[u8]) -> bool {
        let connection = &mut self.connections[index];
        connection.sent = connection.sent.wrapping_add(data.len() as u32);
        let packet = Packet {
            host_port: connection.host_port,
            guest_port: connection.guest_port,
            operation,
            forwarded: connection.received,
            ..Packet::default()
        };
        self.vsock.send(&packet, data)
    }

    /// Sends bytes, within the credit that the host gives.
    fn send(&mut self, index: usize, bytes: &[u8]) -> bool {
        for part in bytes.chunks(LONGEST as usize) {
            let mut patience = 20_000;
            loop {
                let Connection {
                    sent,
                    forwarded,
                    is_over,
                    ..
                } = self.connections[index];
                if is_over || patience == 0 {
                    // Whoever doesn't read is told no more.
                    self.connections[index].is_over = true;
                    return false;
                }
                let outstanding = sent.wrapping_sub(forwarded);
                if outstanding + part.len() as u32 <= HOST_WINDOW {
                    break;
                }
                patience -= 1;
                self.take_packets();
            }
            if !self.packet(index, DATA, part) {
                return false;
            }
        }
        true
    }

    /// Sends a message.
    fn say(&mut self, json: &[u8]) {
        self.send(CONTROL, &(json.len() as u32).to_le_bytes());
        self.send(CONTROL, json);
    }

    /// Takes what has come, and keeps what came over the control connection.
    fn take_packets(&mut self) {
        while let Some(packet) = self.vsock.receive() {
            let index = packet.guest_port.wrapping_sub(2000) as usize;
            let Some(connection) = self.connections.get_mut(index) else {
                continue;
            };
            connection.forwarded = packet.forwarded;
            match packet.operation {
                DATA => {
                    let before = connection.received;
                    connection.received = before.wrapping_add(packet.length);
                    if index == CONTROL {
                        let room = &mut self.incoming[self.length..];
                        let kept = room.len().min(packet.length as usize);
                        memory::get(packet.data, &mut room[..kept]);
                        self.length += kept;
                    }
                    self.packet(index, CREDIT, &[]);
                }
                RESET => connection.is_over = true,
                7 => drop(self.packet(index, CREDIT, &[])),
                _ => {}
            }
        }
    }

    /// Answers what the host asks, and says more.
    pub fn go_on(&mut self, random: &mut Random) {
        self.take_packets();
        while let Some(length) = self.next_length() {
            let end = (4 + length).min(KEPT);
            self.answer(random, end);
            self.incoming.copy_within(end.min(self.length).., 0);
            self.length = self.length.saturating_sub(end);
        }
        if self.is_started && random.once_in(4) {
            self.surprise(random);
        }
    }

    /// Returns the length of the next message, if it is here as far as it is kept.
    fn next_length(&self) -> Option<usize> {
        let (length, rest) = self.incoming[..self.length].split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        (rest.len() >= length || self.length == KEPT).then_some(length)
    }

    /// Answers the request that is kept up to `end`.
    fn answer(&mut self, random: &mut Random, end: usize) {
        let begins = |name: &[u8]| self.incoming[4..].starts_with(name);
        let (is_create, is_start) = (begins(b"{\"create\""), begins(b"{\"start\""));
        let (is_clock, is_ping) = (begins(b"{\"clock\""), begins(b"\"ping\""));
        let is_patient = self.mood == Mood::Patient;
        if !is_patient {
            return self.lie(random);
        }
        if is_create {
            say!("is to create a container");
            self.note_id(end);
            for (index, name) in (1..).zip(STREAMS) {
                if let Some(port) = find_number(&self.incoming[..end], name) {
                    self.connect(index, port);
                }
            }
        }
        if is_start {
            say!("is to start it");
            self.is_started = true;
        }
        if is_clock && !random.once_in(32) {
            let mut clock = Text::<128>::new();
            let time = random.long() as i64;
            let _ = write!(
                clock,
                r#"{{"reply":{{"result":{{"Ok":{{"clock":{time}}}}}}}}}"#
            );
            return self.say(clock.bytes());
        }
        let is_said_right = is_create || is_start || is_ping || !self.is_started;
        if is_said_right || random.once_in(2) {
            return self.say(DONE);
        }
        self.lie(random);
    }

    fn note_id(&mut self, end: usize) {
        let id = after(&self.incoming[..end], b"\"id\":\"").unwrap_or_default();
        let id = id.split(|byte| *byte == b'"').next().unwrap_or_default();
        self.id = Text::new();
        let _ = self
            .id
            .write_str(core::str::from_utf8(id).unwrap_or_default());
    }

    /// Gives an answer that doesn't belong to the question.
    fn lie(&mut self, random: &mut Random) {
        match random.below(10) {
            0 => self.say(br#"{"reply":{"result":{"Ok":{"executed":{"pid":-1}}}}}"#),
            1 => self.say(br#"{"reply":{"result":{"Ok":{"processes":[]}}}}"#),
            2 => self.say(b"{\"reply\":{\"result\":{\"Err\":{\"message\":\"\\u001b]0;x\\u0007\\n\\u0000\",\"status\":255}}}}"),
            3 => self.long_failure(random),
            4 => self.processes(random),
            5 => self.say(br#"{"reply":{"result":{"Ok":{"written":{"used":18446744073709551615,"limit":0}}}}}"#),
            6 => self.say(br#"{"exited":{"id":"other","status":0,"oom_killed":true}}"#),
            7 => {
                self.say(DONE);
                self.say(DONE);
            }
            8 => self.say(b"[]"),
            // Nothing.
            _ => {}
        }
    }

    fn long_failure(&mut self, random: &mut Random) {
        let (begin, end): (&[u8], &[u8]) = (
            br#"{"reply":{"result":{"Err":{"message":""#,
            br#"","status":1}}}}"#,
        );
        let middle = random.below(3 << 20) as usize;
        let length = (begin.len() + middle + end.len()) as u32;
        self.send(CONTROL, &length.to_le_bytes());
        self.send(CONTROL, begin);
        let bytes = [random.pick(b"x \xff"); LONGEST as usize];
        let mut left = middle;
        while left > 0 && self.send(CONTROL, &bytes[..left.min(bytes.len())]) {
            left -= left.min(bytes.len());
        }
        self.send(CONTROL, end);
    }

    /// A list of as many processes as a message can have.
    fn processes(&mut self, random: &mut Random) {
        let begin = br#"{"reply":{"result":{"Ok":{"processes":["#;
        let one = br#"{"pid":1,"parent":0,"uid":0,"terminal":null,"age":18446744073709551615,"cpu_time":18446744073709551615,"command":"\u001b[2J"}"#;
        let end = b"]}}}}";
        let count = 1 + random.below(30_000) as usize;
        let length = begin.len() + count * one.len() + (count - 1) + end.len();
        self.send(CONTROL, &(length as u32).to_le_bytes());
        self.send(CONTROL, begin);
        for index in 0..count {
            if index > 0 {
                self.send(CONTROL, b",");
            }
            if !self.send(CONTROL, one) {
                return;
            }
        }
        self.send(CONTROL, end);
    }

    /// Says something unasked.
    fn surprise(&mut self, random: &mut Random) {
        match random.below(40) {
            0..=19 => {
                // Its workload talks.
                let mut bytes = [0; LONGEST as usize];
                random.fill(&mut bytes);
                for _ in 0..random.below(64) {
                    let stream = 1 + random.below(3) as usize;
                    self.send(stream, &bytes);
                }
            }
            20..=34 => {
                let mut event = Text::<256>::new();
                let id = core::str::from_utf8(self.id.bytes()).unwrap_or_default();
                let _ = write!(event, r#"{{"out-of-memory":{{"id":"{id}"}}}}"#);
                for _ in 0..random.below(2000) {
                    self.say(event.bytes());
                }
            }
            35 if random.once_in(8) => {
                let stream = 1 + random.below(3) as usize;
                self.packet(stream, random.pick(&[RESET, SHUTDOWN]), &[]);
            }
            36 if random.once_in(32) => self.lie(random),
            37 if random.once_in(32) => self.say(DONE),
            _ => {}
        }
    }

    /// Sends wrong packets, or too many.
    pub fn attack(&mut self, random: &mut Random, ports: &[u32], are_wrong: bool) {
        // The control connection is another port's, and stays.
        let all = if self.mood.needs_vsock() {
            &ports[1..]
        } else {
            ports
        };
        if are_wrong {
            self.vsock.wrong_packets(random, all);
        } else {
            self.vsock.connections(random, all);
        }
    }
}

/// Returns what comes after `name`.
fn after<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(name.len()).position(|here| here == name)?;
    Some(&text[at + name.len()..])
}

/// Returns the number after `name`.
fn find_number(text: &[u8], name: &[u8]) -> Option<u32> {
    let mut number = None;
    for byte in after(text, name)?
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
    {
        number = Some(number.unwrap_or(0_u32).wrapping_mul(10) + u32::from(byte - b'0'));
    }
    number
}
