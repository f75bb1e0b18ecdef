//! The host's files, by FUSE (virtio 1.3, section 5.11; the kernel's `include/uapi/linux/fuse.h`).

mod body;
mod kinds;
mod known;
mod opcode;

use self::body::{Body, LONGEST};
use self::known::Known;
use self::opcode::*;
use crate::control::Control;
use crate::device::*;
use crate::memory::{self, ARENA, read};
use crate::random::Random;
use crate::vsock::PACKETS_END;
use crate::words::Words;

const IN_HEADER: usize = 40;

// Where requests and answers are.
const REQUEST: u64 = PACKETS_END;
const ANSWER: u64 = REQUEST + 0x4000;
const ANSWER_ROOM: u32 = 0x2_0000;
/// Where requests are that nobody waits for.
const FLOOD: u64 = ARENA + 0x40_0000;

pub struct Files {
    queues: [Queue; 2],
    known: Known,
    unique: u64,
}

impl Files {
    pub fn start(device: Device, random: &mut Random) -> Option<Files> {
        device.negotiate(0);
        let queues = [device.queue(0)?, device.queue(1)?];
        device.go();
        let mut files = Files {
            queues,
            known: Known::new(),
            unique: 2,
        };
        // Version 7.38, with everything on offer; of the second word of flags, that files are made for a
        // user's groups. Seldom without it, or not at all.
        let flags = if random.once_in(8) {
            random.word()
        } else {
            0x7fff_ffff
        };
        let init = Body::new()
            .word(7)
            .word(38)
            .word(0x2_0000)
            .word(flags)
            .word(1 << 2);
        if !random.once_in(16) {
            files.ask(INIT, 0, &init.add(&[0; 44]), (0, 0))?;
        }
        Some(files)
    }

    /// Asks, and waits for the answer. Returns its error and length.
    fn ask(&mut self, opcode: u32, node: u64, body: &Body, ids: (u32, u32)) -> Option<(i32, u32)> {
        let mut bytes = [0; IN_HEADER + LONGEST];
        let length = self.request(&mut bytes, opcode, node, body, ids);
        let room = [(ANSWER, 16, true), (ANSWER + 16, ANSWER_ROOM - 16, true)];
        let written = self.queues[1].request(REQUEST, &bytes[..length], &room)?;
        let error = if written >= 16 {
            read::<i32>(ANSWER + 4)
        } else {
            0
        };
        Some((error, written))
    }

    /// Puts a request together; returns its length.
    fn request(
        &mut self,
        bytes: &mut [u8],
        opcode: u32,
        node: u64,
        body: &Body,
        (uid, gid): (u32, u32),
    ) -> usize {
        let length = IN_HEADER + body.bytes().len();
        self.unique += 2;
        bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.unique.to_le_bytes());
        bytes[16..24].copy_from_slice(&node.to_le_bytes());
        bytes[24..28].copy_from_slice(&uid.to_le_bytes());
        bytes[28..32].copy_from_slice(&gid.to_le_bytes());
        bytes[IN_HEADER..length].copy_from_slice(body.bytes());
        length
    }

    /// Attacks; answers the host in between.
    pub fn attack(&mut self, random: &mut Random, words: &Words, control: &mut Option<Control>) {
        for _ in 0..1 + random.below(4) {
            match random.below(16) {
                0 => self.hoard(random, words),
                1 => self.flood(random, words),
                _ => self.ask_much(random, words),
            }
            if let Some(control) = control {
                control.go_on(random);
            }
        }
    }

    fn ask_much(&mut self, random: &mut Random, words: &Words) {
        for _ in 0..1 + random.below(60) {
            let opcode = kinds::opcode(random);
            let node = self.known.node(random);
            let body = kinds::body(opcode, &self.known, random, words);
            let ids = match random.below(4) {
                0 => (random.word(), random.word()),
                1 => (1000, 1000),
                _ => (0, 0),
            };
            let Some((error, written)) = self.ask(opcode, node, &body, ids) else {
                // It gets none, or the device has stopped.
                if matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT) {
                    continue;
                }
                return;
            };
            if error == 0 {
                self.known.learn(opcode, ANSWER, written);
            }
        }
    }

    /// Opens and looks up as much as it can, and gives nothing back.
    fn hoard(&mut self, random: &mut Random, words: &Words) {
        let opens = random.once_in(2);
        let node = self.known.node(random);
        let most = random.pick(&[4000, 4000, 30_000]);
        for count in 0..random.below(most) {
            let (opcode, body) = if opens {
                (random.pick(&[OPEN, OPENDIR]), Body::new().word(0).word(0))
            } else if count % 2 == 0 {
                (
                    CREATE,
                    Body::new()
                        .word(0o102)
                        .word(0o100_644)
                        .word(0)
                        .word(0)
                        .name(random, words),
                )
            } else {
                (LOOKUP, Body::new().name(random, words))
            };
            let node = if opens { node } else { 1 };
            if self.ask(opcode, node, &body, (0, 0)).is_none() {
                return;
            }
        }
    }

    /// Has many requests worked on at once, and changes them meanwhile.
    fn flood(&mut self, random: &mut Random, words: &Words) {
        let count = 1 + random.below(40) as u16;
        let index = random.below(2) as usize;
        // The device is right to give up after lengths that go beyond memory.
        let longest = if random.once_in(50) { 1 << 32 } else { 4 << 20 };
        for slot in 0..count {
            let opcode = kinds::opcode(random);
            let node = self.known.node(random);
            let body = kinds::body(opcode, &self.known, random, words);
            let mut bytes = [0; IN_HEADER + LONGEST];
            let length = self.request(&mut bytes, opcode, node, &body, (0, 0));
            let at = FLOOD + 0x8000 * u64::from(slot);
            memory::put(at, &bytes[..length]);
            let said = match random.below(8) {
                0 => random.below(longest) as u32,
                _ => length as u32,
            };
            let room = match random.below(8) {
                0 => random.below(longest) as u32,
                _ => 0x4000,
            };
            let parts = [(at, said, false), (at + 0x4000, room, true)];
            self.queues[index].offer(3 * slot, &parts);
        }
        self.queues[index].notify();
        for _ in 0..random.below(500) {
            let at = FLOOD + 0x8000 * random.below(u64::from(count)) + random.below(96);
            memory::write(at, random.word() as u8);
        }
        for _ in 0..count {
            if self.queues[index].wait().is_none() {
                return;
            }
        }
    }
}
