//! What a workload prints: its beginning, and whether two runs print the same.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, PipeReader, Read},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// How much of it is kept, in bytes.
const KEPT: usize = 64 << 10;

/// One of a workload's streams, while it runs.
#[derive(Debug)]
pub(super) struct Stream {
    pipe: Option<PipeReader>,
    hasher: <RandomState as BuildHasher>::Hasher,
    printed: Printed,
}

/// What has been printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Printed {
    /// How many bytes.
    pub(super) bytes: u64,
    /// The first of them.
    pub(super) head: Vec<u8>,
    /// The hash of all, with keys that the workload doesn't know.
    pub(super) hash: u64,
}

impl Stream {
    pub(super) fn new(pipe: PipeReader, keys: &RandomState) -> io::Result<Self> {
        let flags = fcntl_getfl(&pipe)? | OFlags::NONBLOCK;
        fcntl_setfl(&pipe, flags)?;
        Ok(Self {
            pipe: Some(pipe),
            hasher: keys.build_hasher(),
            printed: Printed::default(),
        })
    }

    /// Returns what to wait for, until the stream has ended.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Returns how many bytes have been printed.
    pub(super) fn bytes(&self) -> u64 {
        self.printed.bytes
    }

    /// Returns the first of them.
    pub(super) fn head(&self) -> &[u8] {
        &self.printed.head
    }

    /// Reads what there is, up to some bytes.
    pub(super) fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut buffer = [0; 64 << 10];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                let bytes = &buffer[..length];
                self.hasher.write(bytes);
                self.printed.bytes += length as u64;
                let room = KEPT.saturating_sub(self.printed.head.len());
                self.printed.head.extend(&bytes[..length.min(room)]);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Returns all that was printed.
    pub(super) fn printed(self) -> Printed {
        Printed {
            hash: self.hasher.finish(),
            ..self.printed
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_same_bytes_are_the_same_however_they_come() {
        let keys = RandomState::new();
        let print = |parts: &[&[u8]]| {
            let (reader, mut writer) = io::pipe().unwrap();
            let mut stream = Stream::new(reader, &keys).unwrap();
            for part in parts {
                writer.write_all(part).unwrap();
                stream.read().unwrap();
            }
            drop(writer);
            stream.read().unwrap();
            assert!(stream.fd().is_none());
            stream.printed()
        };
        let whole = print(&[b"one two"]);
        assert_eq!(whole, print(&[b"one", b" two"]));
        assert_eq!((whole.bytes, whole.head.as_slice()), (7, &b"one two"[..]));
        assert_ne!(whole.hash, print(&[b"one twO"]).hash);
        let part = &[b'x'; KEPT / 4 + 1][..];
        let long = print(&[part; 4]);
        assert_eq!((long.bytes, long.head.len()), (KEPT as u64 + 4, KEPT));
    }
}
