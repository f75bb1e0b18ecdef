//! The host's files, by FUSE (virtio 1.3, section 5.11; the kernel's `include/uapi/linux/fuse.h`).

use crate::control::Control;
use crate::device::*;
use crate::memory::{self, ARENA, read};
use crate::random::Random;
use crate::vsock::PACKETS_END;
use crate::words::Words;

const IN_HEADER: usize = 40;
/// How many nodes and handles are remembered.
const KNOWN: usize = 64;

// Where requests and answers are.
const REQUEST: u64 = PACKETS_END;
const ANSWER: u64 = REQUEST + 0x4000;
const ANSWER_ROOM: u32 = 0x2_0000;
/// Where requests are that nobody waits for.
const FLOOD: u64 = ARENA + 0x40_0000;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const SETATTR: u32 = 4;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const CREATE: u32 = 35;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const FALLOCATE: u32 = 43;
const READDIRPLUS: u32 = 44;
const RENAME2: u32 = 45;
const LSEEK: u32 = 46;
const COPY_FILE_RANGE: u32 = 47;
const LAST: u32 = 53;

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
const ATTRIBUTES: [&[u8]; 8] = [
    b"trusted.overlay.opaque",
    b"security.capability",
    b"user.x",
    b"system.posix_acl_access",
    b"security.selinux",
    b"",
    b"trusted.x",
    b"..",
];

pub struct Files {
    queues: [Queue; 2],
    nodes: [u64; KNOWN],
    handles: [u64; KNOWN],
    next: usize,
    unique: u64,
}

/// The body of a request.
struct Body {
    bytes: [u8; 8192],
    length: usize,
}

impl Body {
    fn new() -> Body {
        Body {
            bytes: [0; 8192],
            length: 0,
        }
    }

    fn add(mut self, bytes: &[u8]) -> Body {
        let end = (self.length + bytes.len()).min(self.bytes.len());
        self.bytes[self.length..end].copy_from_slice(&bytes[..end - self.length]);
        self.length = end;
        self
    }

    fn word(self, word: u32) -> Body {
        self.add(&word.to_le_bytes())
    }

    fn long(self, long: u64) -> Body {
        self.add(&long.to_le_bytes())
    }

    /// Adds a name with its NUL, which may be missing.
    fn name(self, random: &mut Random, words: &Words) -> Body {
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

impl Files {
    pub fn start(device: Device, random: &mut Random) -> Option<Files> {
        device.negotiate(0);
        let queues = [device.queue(0)?, device.queue(1)?];
        device.go();
        let mut files = Files {
            queues,
            nodes: [1; KNOWN],
            handles: [0; KNOWN],
            next: 0,
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
        let mut bytes = [0; IN_HEADER + 8192];
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
        let length = IN_HEADER + body.length;
        self.unique += 2;
        bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.unique.to_le_bytes());
        bytes[16..24].copy_from_slice(&node.to_le_bytes());
        bytes[24..28].copy_from_slice(&uid.to_le_bytes());
        bytes[28..32].copy_from_slice(&gid.to_le_bytes());
        bytes[IN_HEADER..length].copy_from_slice(&body.bytes[..body.length]);
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

    fn node(&self, random: &mut Random) -> u64 {
        match random.below(16) {
            0 => random.number(),
            1..=5 => 1,
            _ => random.pick(&self.nodes),
        }
    }

    fn handle(&self, random: &mut Random) -> u64 {
        match random.below(8) {
            0 => random.number(),
            _ => random.pick(&self.handles),
        }
    }

    fn ask_much(&mut self, random: &mut Random, words: &Words) {
        for _ in 0..1 + random.below(60) {
            let opcode = self.opcode(random);
            let node = self.node(random);
            let body = self.body(opcode, random, words);
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
                self.learn(opcode, written);
            }
        }
    }

    /// Remembers nodes and handles.
    fn learn(&mut self, opcode: u32, written: u32) {
        let slot = self.next % KNOWN;
        if matches!(opcode, LOOKUP | SYMLINK | MKNOD | MKDIR | LINK | CREATE) && written >= 24 {
            self.nodes[slot] = read(ANSWER + 16);
            self.next += 1;
        }
        if matches!(opcode, OPEN | OPENDIR) && written >= 24 {
            self.handles[slot] = read(ANSWER + 16);
            self.next += 1;
        }
        // The handle comes after what is known of the file.
        if opcode == CREATE && written >= 16 + 128 + 8 {
            self.handles[slot] = read(ANSWER + 16 + 128);
        }
    }

    fn opcode(&self, random: &mut Random) -> u32 {
        match random.below(8) {
            0 => random.below(u64::from(LAST)) as u32,
            1 if random.once_in(8) => random.word(),
            _ => random.pick(&[
                LOOKUP,
                LOOKUP,
                LOOKUP,
                SETATTR,
                SYMLINK,
                MKNOD,
                MKDIR,
                UNLINK,
                RMDIR,
                RENAME,
                LINK,
                OPEN,
                OPEN,
                READ,
                WRITE,
                WRITE,
                RELEASE,
                SETXATTR,
                GETXATTR,
                LISTXATTR,
                REMOVEXATTR,
                OPENDIR,
                READDIR,
                READDIRPLUS,
                CREATE,
                CREATE,
                FALLOCATE,
                RENAME2,
                LSEEK,
                COPY_FILE_RANGE,
                FORGET,
                BATCH_FORGET,
            ]),
        }
    }

    /// Makes a body of the right form for its opcode, mostly.
    fn body(&self, opcode: u32, random: &mut Random, words: &Words) -> Body {
        let body = Body::new();
        let (node, handle) = (self.node(random), self.handle(random));
        let odd = random.pick(&[0, u32::MAX]);
        let mode = random.pick(&[
            0o100_644, 0o104_755, 0o102_755, 0o020_666, 0o060_666, 0o010_644, 0o140_644, 0o040_755,
            0o120_777, odd,
        ]);
        if random.once_in(32) {
            let mut bytes = [0; 200];
            random.fill(&mut bytes);
            let length = random.below(200) as usize;
            return body.add(&bytes[..length]);
        }
        match opcode {
            LOOKUP | UNLINK | RMDIR | REMOVEXATTR => body.name(random, words),
            FORGET => body.long(random.number()),
            BATCH_FORGET => {
                let count = random.pick(&[0, 1, 1, 2, 1000, u32::MAX, 0x1000_0000]);
                body.word(count)
                    .word(0)
                    .long(node)
                    .long(random.number())
                    .long(1)
                    .long(u64::MAX)
            }
            SETATTR => {
                let valid = random.below(1 << 12) as u32;
                let size = random.pick(&[0, 4096, 1 << 40, u64::MAX, 1 << 62]);
                let times = [random.number(), random.number(), random.number()];
                let mut body = body.word(valid).word(0).long(handle).long(size).long(0);
                for time in times {
                    body = body.long(time);
                }
                let nanoseconds = random.word();
                body = body.word(nanoseconds).word(nanoseconds).word(nanoseconds);
                body.word(mode)
                    .word(0)
                    .word(random.word())
                    .word(random.word())
                    .word(0)
            }
            // The name, and where it leads.
            SYMLINK => body.name(random, words).name(random, words),
            MKNOD => {
                let device = random.pick(&[0x103, 0x800, 0, 0x105, u32::MAX]);
                body.word(mode)
                    .word(device)
                    .word(0)
                    .word(0)
                    .name(random, words)
            }
            MKDIR => body.word(mode).word(0).name(random, words),
            RENAME => body.long(node).name(random, words).name(random, words),
            RENAME2 => {
                let flags = random.below(8) as u32;
                body.long(node)
                    .word(flags)
                    .word(0)
                    .name(random, words)
                    .name(random, words)
            }
            LINK => body.long(node).name(random, words),
            OPEN | OPENDIR => {
                let flags =
                    random.pick(&[0, 1, 2, 0o1_000, 0o2_000, 0o40_000, 0o20_200_000, u32::MAX]);
                body.word(flags).word(0)
            }
            CREATE => {
                let flags = random.pick(&[0o102, 0o101, 0o302, 0o1_102, u32::MAX]);
                body.word(flags)
                    .word(mode)
                    .word(0)
                    .word(random.word())
                    .name(random, words)
            }
            READ | READDIR | READDIRPLUS => {
                let size = random.pick(&[4096, 0x1_0000, u32::MAX, 0, 1 << 30]);
                let offset = random.pick(&[0, 0, 1 << 40, u64::MAX]);
                body.long(handle)
                    .long(offset)
                    .word(size)
                    .word(0)
                    .long(0)
                    .word(0)
                    .word(0)
            }
            WRITE => {
                let size = random.pick(&[0, 100, 4096, 4096, u32::MAX, 1 << 30]);
                let offset = random.pick(&[0, 0, 4096, 1 << 30, u64::MAX, 1 << 62]);
                let flags = random.below(8) as u32;
                let body = body
                    .long(handle)
                    .long(offset)
                    .word(size)
                    .word(flags)
                    .long(0)
                    .word(0)
                    .word(0);
                let data = [b'w'; 4096];
                let length = random.pick(&[0, 100, 4096]);
                body.add(&data[..length])
            }
            RELEASE => body
                .long(handle)
                .word(0)
                .word(random.below(4) as u32)
                .long(0),
            SETXATTR => {
                let size = random.pick(&[0, 20, 100, u32::MAX]);
                let mut value = [0; 100];
                random.fill(&mut value);
                // A file's capabilities: all of them.
                value[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
                let body = body.word(size).word(0).word(0).word(0);
                body.add(random.pick(&ATTRIBUTES)).add(&[0]).add(&value)
            }
            GETXATTR => {
                let body = body.word(random.pick(&[0, 100, u32::MAX])).word(0);
                body.add(random.pick(&ATTRIBUTES)).add(&[0])
            }
            LISTXATTR => body.word(random.pick(&[0, 1, 100, u32::MAX])).word(0),
            FALLOCATE => {
                let length = random.pick(&[4096, 1 << 20, 1 << 50, u64::MAX]);
                body.long(handle)
                    .long(random.number())
                    .long(length)
                    .word(random.below(128) as u32)
                    .word(0)
            }
            LSEEK => body
                .long(handle)
                .long(random.number())
                .word(random.below(6) as u32)
                .word(0),
            COPY_FILE_RANGE => {
                let other = self.handle(random);
                let length = random.pick(&[4096, 1 << 30, u64::MAX]);
                body.long(handle)
                    .long(0)
                    .long(node)
                    .long(other)
                    .long(0)
                    .long(length)
                    .long(0)
            }
            _ => {
                let (first, second) = (random.number(), random.number());
                body.long(handle).long(first).long(second).add(&[0; 64])
            }
        }
    }

    /// Opens and looks up as much as it can, and gives nothing back.
    fn hoard(&mut self, random: &mut Random, words: &Words) {
        let opens = random.once_in(2);
        let node = self.node(random);
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
            let opcode = self.opcode(random);
            let node = self.node(random);
            let body = self.body(opcode, random, words);
            let mut bytes = [0; IN_HEADER + 8192];
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
