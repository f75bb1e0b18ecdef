//! What a file server is told while it serves, and its answers, as bytes on a socket.
//!
//! Each message is a length of four bytes and that many bytes. The server may have been taken over:
//! an answer is short, and shows nothing but text.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::policy::{Ids, Rights};

/// How long an order may be, in bytes: there may be 65536 groups.
const MAX_ORDER: usize = 1 << 20;

/// How long an answer may be, in bytes.
const MAX_ANSWER: usize = 4096;

/// The number of ranges that stands for all ids.
const ANY: u32 = u32::MAX;

/// What the server is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Refuses from now on what these rights don't allow.
    Enforce(Rights),
    /// Allows what these allow, too.
    Widen(Rights),
    /// Makes the directory of a device read-only, counted from the first.
    Seal(u8),
}

/// What the server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It serves, or has done what it was told.
    Done,
    /// It can't continue; why.
    Failed(String),
}

const ENFORCE: u8 = 1;
const WIDEN: u8 = 2;
const SEAL: u8 = 3;
const DONE: u8 = 4;
const FAILED: u8 = 5;

impl Order {
    /// Sends it, and takes at most that long.
    pub(super) fn send(&self, socket: &UnixStream, limit: Duration) -> io::Result<()> {
        let socket = Until::after(limit, socket);
        let (kind, rights) = match self {
            Order::Enforce(rights) => (ENFORCE, rights),
            Order::Widen(rights) => (WIDEN, rights),
            Order::Seal(index) => return send(socket, &[SEAL, *index]),
        };
        let mut message = vec![kind, flags(rights)];
        put_ids(&mut message, &rights.users);
        put_ids(&mut message, &rights.groups);
        send(socket, &message)
    }

    /// Returns the next order; `None` if nobody gives any more.
    pub(super) fn receive(socket: &UnixStream) -> io::Result<Option<Order>> {
        let Some(message) = receive(socket, MAX_ORDER)? else {
            return Ok(None);
        };
        let order = Order::read(&message);
        order.map(Some).ok_or(io::ErrorKind::InvalidData.into())
    }

    fn read(message: &[u8]) -> Option<Order> {
        let (kind, rest) = message.split_first()?;
        if *kind == SEAL {
            return rest.first().copied().map(Order::Seal);
        }
        let (flags, mut rest) = rest.split_first()?;
        let has = |bit: u8| flags & 1 << bit != 0;
        let rights = Rights {
            makes_devices: has(0),
            administers: has(1),
            keeps_set_ids: has(2),
            acts_as_owner: has(3),
            sets_capabilities: has(4),
            users: take_ids(&mut rest)?,
            groups: take_ids(&mut rest)?,
        };
        match *kind {
            ENFORCE => Some(Order::Enforce(rights)),
            WIDEN => Some(Order::Widen(rights)),
            _ => None,
        }
    }
}

impl Answer {
    pub(super) fn send(&self, socket: &UnixStream) -> io::Result<()> {
        match self {
            Answer::Done => send(socket, &[DONE]),
            Answer::Failed(why) => {
                let mut message = vec![FAILED];
                message.extend(why.bytes().take(MAX_ANSWER - 1));
                send(socket, &message)
            }
        }
    }

    /// Returns the next answer, which may take that long as a whole; `None` if the server has ended.
    pub(super) fn receive(socket: &UnixStream, limit: Duration) -> io::Result<Option<Answer>> {
        let Some(message) = receive(Until::after(limit, socket), MAX_ANSWER)? else {
            return Ok(None);
        };
        match message.split_first() {
            Some((&DONE, [])) => Ok(Some(Answer::Done)),
            Some((&FAILED, why)) => {
                let why = String::from_utf8_lossy(why);
                let shown = why.chars().filter(|c| !c.is_control());
                Ok(Some(Answer::Failed(shown.collect())))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn flags(rights: &Rights) -> u8 {
    [
        rights.makes_devices,
        rights.administers,
        rights.keeps_set_ids,
        rights.acts_as_owner,
        rights.sets_capabilities,
    ]
    .into_iter()
    .zip(0..)
    .fold(0, |flags, (has, bit)| flags | u8::from(has) << bit)
}

fn put_ids(message: &mut Vec<u8>, ids: &Ids) {
    match ids {
        Ids::Any => message.extend(ANY.to_ne_bytes()),
        Ids::Only(ranges) => {
            message.extend((ranges.len() as u32).to_ne_bytes());
            for range in ranges {
                message.extend(range.start().to_ne_bytes());
                message.extend(range.end().to_ne_bytes());
            }
        }
    }
}

fn take_ids(rest: &mut &[u8]) -> Option<Ids> {
    let mut word = || {
        let (word, left) = rest.split_first_chunk()?;
        *rest = left;
        Some(u32::from_ne_bytes(*word))
    };
    match word()? {
        ANY => Some(Ids::Any),
        count => {
            let ranges = (0..count).map(|_| Some(word()?..=word()?));
            ranges.collect::<Option<_>>().map(Ids::Only)
        }
    }
}

/// A socket that is waited for until then, however little comes or goes at a time.
struct Until<'a> {
    end: Instant,
    socket: &'a UnixStream,
}

impl Until<'_> {
    fn after(limit: Duration, socket: &UnixStream) -> Until<'_> {
        let end = Instant::now() + limit;
        Until { end, socket }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        match left {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn send(mut socket: impl Write, message: &[u8]) -> io::Result<()> {
    let mut bytes = (message.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(message);
    socket.write_all(&bytes)
}

fn receive(mut socket: impl Read, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match socket.read_exact(&mut length) {
        Err(error) if is_hang_up(&error) => return Ok(None),
        other => other?,
    }
    let length = u32::from_ne_bytes(length) as usize;
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    match socket.read_exact(&mut message) {
        Err(error) if is_hang_up(&error) => Ok(None),
        other => other.map(|()| Some(message)),
    }
}

/// Returns whether the other end is closed, whatever it has left unread.
pub(super) fn is_hang_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    #[test]
    fn orders_arrive_as_they_were_given() {
        let (ours, theirs) = pair();
        for bit in 0..5 {
            let rights = Rights {
                makes_devices: bit == 0,
                administers: bit == 1,
                keeps_set_ids: bit == 2,
                acts_as_owner: bit == 3,
                sets_capabilities: bit == 4,
                users: Ids::Only(vec![1000..=1000, 7..=u32::MAX]),
                groups: Ids::Any,
            };
            for order in [Order::Enforce(rights.clone()), Order::Widen(rights)] {
                order.send(&ours, LIMIT).unwrap();
                assert_eq!(Order::receive(&theirs).unwrap(), Some(order));
            }
        }
        let none = Ids::Only(vec![]);
        let nothing = Order::Enforce(Rights {
            makes_devices: false,
            administers: false,
            keeps_set_ids: false,
            acts_as_owner: false,
            sets_capabilities: false,
            users: none.clone(),
            groups: none,
        });
        for order in [nothing, Order::Seal(1)] {
            order.send(&ours, LIMIT).unwrap();
            assert_eq!(Order::receive(&theirs).unwrap(), Some(order));
        }
        drop(ours);
        assert_eq!(Order::receive(&theirs).unwrap(), None);
    }

    #[test]
    fn an_answer_is_short_text() {
        let (ours, theirs) = pair();
        Answer::Done.send(&theirs).unwrap();
        let long = "\u{1b}[2J".to_owned() + &"x".repeat(2 * MAX_ANSWER);
        Answer::Failed(long).send(&theirs).unwrap();
        assert_eq!(Answer::receive(&ours, LIMIT).unwrap(), Some(Answer::Done));
        let Some(Answer::Failed(why)) = Answer::receive(&ours, LIMIT).unwrap() else {
            panic!("another answer");
        };
        assert!(why.starts_with("[2Jx") && why.len() < MAX_ANSWER, "{why}");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &b"\xff\xff\xff\xff"[..],
            b"\x00\x00\x00\x00",
            b"\x01\x00\x00\x00\x09",
            b"\x03\x00\x00\x00\x01\x00\x00",
        ] {
            let (ours, theirs) = pair();
            (&ours).write_all(bytes).unwrap();
            assert!(Order::receive(&theirs).is_err(), "{bytes:?}");
            (&theirs).write_all(bytes).unwrap();
            assert!(Answer::receive(&ours, LIMIT).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_server_that_does_everything_bit_by_bit_is_not_waited_for() {
        let limit = Duration::from_millis(100);
        let (ours, theirs) = pair();
        let length = (MAX_ANSWER as u32).to_ne_bytes();
        (&theirs).write_all(&length).unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..40 {
                std::thread::sleep(limit / 4);
                // Nobody may be there any more.
                let _ = (&theirs).write_all(b"x");
            }
        });
        let begin = Instant::now();
        let late = Answer::receive(&ours, limit).unwrap_err();
        assert!(begin.elapsed() < 5 * limit, "{:?}", begin.elapsed());
        let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
        assert!(kinds.contains(&late.kind()), "{late}");
        server.join().unwrap();
    }
}
