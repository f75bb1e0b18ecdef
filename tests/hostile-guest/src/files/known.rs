//! The nodes and handles that the host has given out.

use super::opcode::{CREATE, LINK, LOOKUP, MKDIR, MKNOD, OPEN, OPENDIR, SYMLINK};
use crate::memory::read;
use crate::random::Random;

/// How many of each are remembered.
const KNOWN: usize = 64;

pub struct Known {
    nodes: [u64; KNOWN],
    handles: [u64; KNOWN],
    next: usize,
}

impl Known {
    /// Knows nothing but the root.
    pub fn new() -> Known {
        Known {
            nodes: [1; KNOWN],
            handles: [0; KNOWN],
            next: 0,
        }
    }

    /// Remembers what an answer without an error gives, which has this length with its header.
    pub fn learn(&mut self, opcode: u32, answer: u64, length: u32) {
        let slot = self.next % KNOWN;
        if matches!(opcode, LOOKUP | SYMLINK | MKNOD | MKDIR | LINK | CREATE) && length >= 24 {
            self.nodes[slot] = read(answer + 16);
            self.next += 1;
        }
        if matches!(opcode, OPEN | OPENDIR) && length >= 24 {
            self.handles[slot] = read(answer + 16);
            self.next += 1;
        }
        // The handle comes after what is known of the file.
        if opcode == CREATE && length >= 16 + 128 + 8 {
            self.handles[slot] = read(answer + 16 + 128);
        }
    }

    pub fn node(&self, random: &mut Random) -> u64 {
        match random.below(16) {
            0 => random.number(),
            1..=5 => 1,
            _ => random.pick(&self.nodes),
        }
    }

    pub fn handle(&self, random: &mut Random) -> u64 {
        match random.below(8) {
            0 => random.number(),
            _ => random.pick(&self.handles),
        }
    }
}
