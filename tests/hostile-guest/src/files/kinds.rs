//! The kinds of request, each with what makes a body of the right form for it, of values that are wrong
//! or dangerous.

use super::body::Body;
use super::known::Known;
use super::opcode::*;
use crate::random::Random;
use crate::words::Words;

/// What a body is made of.
struct Source<'a> {
    random: &'a mut Random,
    words: &'a Words,
    known: &'a Known,
    node: u64,
    handle: u64,
    mode: u32,
}

type Maker = fn(&mut Source) -> Body;

/// All kinds; some are here more than once, so that they are asked for more often.
const KINDS: [(u32, Maker); 32] = [
    (LOOKUP, name),
    (LOOKUP, name),
    (LOOKUP, name),
    (SETATTR, setattr),
    (SYMLINK, symlink),
    (MKNOD, mknod),
    (MKDIR, mkdir),
    (UNLINK, name),
    (RMDIR, name),
    (RENAME, rename),
    (LINK, link),
    (OPEN, open),
    (OPEN, open),
    (READ, read),
    (WRITE, write),
    (WRITE, write),
    (RELEASE, release),
    (SETXATTR, setxattr),
    (GETXATTR, getxattr),
    (LISTXATTR, listxattr),
    (REMOVEXATTR, name),
    (OPENDIR, open),
    (READDIR, read),
    (READDIRPLUS, read),
    (CREATE, create),
    (CREATE, create),
    (FALLOCATE, fallocate),
    (RENAME2, rename2),
    (LSEEK, lseek),
    (COPY_FILE_RANGE, copy_file_range),
    (FORGET, forget),
    (BATCH_FORGET, batch_forget),
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

/// Returns an opcode, mostly one that there is.
pub fn opcode(random: &mut Random) -> u32 {
    match random.below(8) {
        0 => random.below(u64::from(LAST)) as u32,
        1 if random.once_in(8) => random.word(),
        _ => random.pick(&KINDS).0,
    }
}

/// Makes a body of the right form for its opcode, mostly.
pub fn body(opcode: u32, known: &Known, random: &mut Random, words: &Words) -> Body {
    let (node, handle) = (known.node(random), known.handle(random));
    let mode = mode(random);
    if random.once_in(32) {
        let mut bytes = [0; 200];
        random.fill(&mut bytes);
        let length = random.below(200) as usize;
        return Body::new().add(&bytes[..length]);
    }
    let kind = KINDS.iter().find(|(of, _)| *of == opcode);
    let make = kind.map_or(unknown as Maker, |(_, make)| *make);
    make(&mut Source {
        random,
        words,
        known,
        node,
        handle,
        mode,
    })
}

fn mode(random: &mut Random) -> u32 {
    let odd = random.pick(&[0, u32::MAX]);
    random.pick(&[
        0o100_644, 0o104_755, 0o102_755, 0o020_666, 0o060_666, 0o010_644, 0o140_644, 0o040_755,
        0o120_777, odd,
    ])
}

fn name(from: &mut Source) -> Body {
    Body::new().name(from.random, from.words)
}

fn forget(from: &mut Source) -> Body {
    Body::new().long(from.random.number())
}

fn batch_forget(from: &mut Source) -> Body {
    let count = from.random.pick(&[0, 1, 1, 2, 1000, u32::MAX, 0x1000_0000]);
    Body::new()
        .word(count)
        .word(0)
        .long(from.node)
        .long(from.random.number())
        .long(1)
        .long(u64::MAX)
}

fn setattr(from: &mut Source) -> Body {
    let random = &mut *from.random;
    let valid = random.below(1 << 12) as u32;
    let size = random.pick(&[0, 4096, 1 << 40, u64::MAX, 1 << 62]);
    let times = [random.number(), random.number(), random.number()];
    let mut body = Body::new()
        .word(valid)
        .word(0)
        .long(from.handle)
        .long(size)
        .long(0);
    for time in times {
        body = body.long(time);
    }
    let nanoseconds = random.word();
    body = body.word(nanoseconds).word(nanoseconds).word(nanoseconds);
    body.word(from.mode)
        .word(0)
        .word(random.word())
        .word(random.word())
        .word(0)
}

/// A name, and where it leads.
fn symlink(from: &mut Source) -> Body {
    name(from).name(from.random, from.words)
}

fn mknod(from: &mut Source) -> Body {
    let device = from.random.pick(&[0x103, 0x800, 0, 0x105, u32::MAX]);
    Body::new()
        .word(from.mode)
        .word(device)
        .word(0)
        .word(0)
        .name(from.random, from.words)
}

fn mkdir(from: &mut Source) -> Body {
    Body::new()
        .word(from.mode)
        .word(0)
        .name(from.random, from.words)
}

fn rename(from: &mut Source) -> Body {
    Body::new()
        .long(from.node)
        .name(from.random, from.words)
        .name(from.random, from.words)
}

fn rename2(from: &mut Source) -> Body {
    let flags = from.random.below(8) as u32;
    Body::new()
        .long(from.node)
        .word(flags)
        .word(0)
        .name(from.random, from.words)
        .name(from.random, from.words)
}

fn link(from: &mut Source) -> Body {
    Body::new().long(from.node).name(from.random, from.words)
}

fn open(from: &mut Source) -> Body {
    let flags = [0, 1, 2, 0o1_000, 0o2_000, 0o40_000, 0o20_200_000, u32::MAX];
    Body::new().word(from.random.pick(&flags)).word(0)
}

fn create(from: &mut Source) -> Body {
    let flags = from.random.pick(&[0o102, 0o101, 0o302, 0o1_102, u32::MAX]);
    Body::new()
        .word(flags)
        .word(from.mode)
        .word(0)
        .word(from.random.word())
        .name(from.random, from.words)
}

fn read(from: &mut Source) -> Body {
    let size = from.random.pick(&[4096, 0x1_0000, u32::MAX, 0, 1 << 30]);
    let offset = from.random.pick(&[0, 0, 1 << 40, u64::MAX]);
    Body::new()
        .long(from.handle)
        .long(offset)
        .word(size)
        .word(0)
        .long(0)
        .word(0)
        .word(0)
}

fn write(from: &mut Source) -> Body {
    let random = &mut *from.random;
    let size = random.pick(&[0, 100, 4096, 4096, u32::MAX, 1 << 30]);
    let offset = random.pick(&[0, 0, 4096, 1 << 30, u64::MAX, 1 << 62]);
    let flags = random.below(8) as u32;
    let body = Body::new()
        .long(from.handle)
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

fn release(from: &mut Source) -> Body {
    Body::new()
        .long(from.handle)
        .word(0)
        .word(from.random.below(4) as u32)
        .long(0)
}

fn setxattr(from: &mut Source) -> Body {
    let size = from.random.pick(&[0, 20, 100, u32::MAX]);
    let mut value = [0; 100];
    from.random.fill(&mut value);
    // A file's capabilities: all of them.
    value[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    let body = Body::new().word(size).word(0).word(0).word(0);
    body.add(from.random.pick(&ATTRIBUTES))
        .add(&[0])
        .add(&value)
}

fn getxattr(from: &mut Source) -> Body {
    let size = from.random.pick(&[0, 100, u32::MAX]);
    let body = Body::new().word(size).word(0);
    body.add(from.random.pick(&ATTRIBUTES)).add(&[0])
}

fn listxattr(from: &mut Source) -> Body {
    let size = from.random.pick(&[0, 1, 100, u32::MAX]);
    Body::new().word(size).word(0)
}

fn fallocate(from: &mut Source) -> Body {
    let length = from.random.pick(&[4096, 1 << 20, 1 << 50, u64::MAX]);
    Body::new()
        .long(from.handle)
        .long(from.random.number())
        .long(length)
        .word(from.random.below(128) as u32)
        .word(0)
}

fn lseek(from: &mut Source) -> Body {
    Body::new()
        .long(from.handle)
        .long(from.random.number())
        .word(from.random.below(6) as u32)
        .word(0)
}

fn copy_file_range(from: &mut Source) -> Body {
    let other = from.known.handle(from.random);
    let length = from.random.pick(&[4096, 1 << 30, u64::MAX]);
    Body::new()
        .long(from.handle)
        .long(0)
        .long(from.node)
        .long(other)
        .long(0)
        .long(length)
        .long(0)
}

/// What may be anything.
fn unknown(from: &mut Source) -> Body {
    let (first, second) = (from.random.number(), from.random.number());
    Body::new()
        .long(from.handle)
        .long(first)
        .long(second)
        .add(&[0; 64])
}
