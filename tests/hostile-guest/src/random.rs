//! Chance, from a seed (splitmix64).

use crate::memory::{ARENA, ARENA_END};

pub struct Random {
    state: u64,
    /// Where the guest's memory ends, as far as it is below 4 GiB.
    memory_end: u64,
}

impl Random {
    pub fn new(seed: u64, memory_end: u64) -> Random {
        Random {
            state: seed,
            memory_end,
        }
    }

    pub fn long(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below this one, which isn't 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.long() % end
    }

    /// Returns true once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Returns a number of the kind that is forgotten in checks, more often than one of any kind.
    pub fn number(&mut self) -> u64 {
        let near = |edge: u64, by: u64| edge.wrapping_add(by).wrapping_sub(2);
        match self.below(8) {
            0 => self.below(4),
            1 => self.below(256),
            2 => self.below(1 << 16),
            3 => near(1 << self.below(64), self.below(4)),
            4 => near(0, self.below(5)),
            5 => near(1 << 32, self.below(4)),
            6 => self.long() & 0xffff_ffff,
            _ => self.long(),
        }
    }

    pub fn word(&mut self) -> u32 {
        self.number() as u32
    }

    /// Returns an address, mostly one in memory that is for devices, which may end before what is
    /// there does; sometimes at the end of memory, or outside.
    pub fn address(&mut self) -> u64 {
        match self.below(32) {
            0 => self.number(),
            1 => self.memory_end - self.below(0x1_0000),
            2 => self.memory_end - self.below(16),
            3 => u64::MAX - self.below(0x1_0000),
            4 => 0xc000_0000 + self.below(1 << 30),
            5..=8 => ARENA + self.below(ARENA_END - ARENA),
            _ => ARENA + 16 * self.below((ARENA_END - ARENA) / 16),
        }
    }

    /// Returns how long a piece of memory is: mostly a page or less.
    pub fn length(&mut self) -> u32 {
        match self.below(8) {
            0 => self.word(),
            1 => self.below(4 << 20) as u32,
            2 => 0,
            _ => self.below(4097) as u32,
        }
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.long().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}
