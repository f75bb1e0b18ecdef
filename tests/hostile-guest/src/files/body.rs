//! What comes after a request's header.

use crate::random::Random;
use crate::words::Words;

/// The longest that there is.
pub const LONGEST: usize = 8192;

const NAMES: [&[u8]; 24] = [
    b"..",
    b".",
    b"",
    b"a",
    b"b",
    b"c",
    b"d",
    b"made/x",
    b"../canary",
    b"../../canary/file",
    b"../../../../../../../../etc/passwd",
    b"/etc/passwd",
    b"out",
    b"out-file",
    b"up",
    b"volume",
    b"mounts",
    b"0",
    b"1",
    b"proc",
    b"self",
    b"file",
    b"bin",
    b"secret\0x",
];

/// The body of a request.
pub struct Body {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Body {
    pub fn new() -> Body {
        Body {
            bytes: [0; LONGEST],
            length: 0,
        }
    }

    pub fn add(mut self, bytes: &[u8]) -> Body {
        let end = (self.length + bytes.len()).min(self.bytes.len());
        self.bytes[self.length..end].copy_from_slice(&bytes[..end - self.length]);
        self.length = end;
        self
    }

    pub fn word(self, word: u32) -> Body {
        self.add(&word.to_le_bytes())
    }

    pub fn long(self, long: u64) -> Body {
        self.add(&long.to_le_bytes())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Adds a name with its NUL, which may be missing.
    pub fn name(self, random: &mut Random, words: &Words) -> Body {
        let named = match random.below(32) {
            0 => self.add(&[b'n'; 255]),
            1 => self.add(&[b'n'; 256]),
            2 => self.add(&[b'/'; 4095]),
            3 => return self.add(b"unended"),
            4 => self.add(words.value("outside").unwrap_or_default().as_bytes()),
            5 => {
                let mut name = [0; 8];
                random.fill(&mut name);
                self.add(&name)
            }
            // Any number of files.
            6..=9 => self.add(&[
                b'f',
                b'a' + random.below(26) as u8,
                b'a' + random.below(26) as u8,
            ]),
            _ => self.add(random.pick(&NAMES)),
        };
        named.add(&[0])
    }
}
