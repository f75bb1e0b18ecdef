//! Tests what a QEMU that was taken over may send, and what a guest may break.

use std::io::{Read, Write};

use super::*;

/// Has a device listen to whoever has the socket, and returns that and what tells why it stops.
fn listening() -> (UnixStream, mpsc::Receiver<String>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (tell, ended) = mpsc::channel();
    let failed = Arc::new(move |why: &str| {
        let _ = tell.send(why.to_owned());
    });
    let connection = Connection {
        name: "test",
        device: Box::new(Rng::new()),
        handed_over: 1,
        needed: 1,
        gives_config: false,
        socket: Socket::Connected(ours),
    };
    let memory = Memory::Known(guest_memory());
    connection.serve(memory, nobody(), failed, || ()).unwrap();
    (theirs, ended)
}

#[test]
fn other_features_at_work_end_the_conversation() {
    let mut qemu = rng();
    qemu.start(&[rng_size()]);
    let features = BASIC_FEATURES | PROTOCOL_FEATURES;
    let _ = qemu.front.set_features(features);
    assert!(qemu.failure().contains("other features"));
}

#[test]
fn a_ring_that_is_not_there_is_not_enabled_early() {
    let (mut theirs, ended) = listening();
    let request = [18, 9, 8, 1, 1].map(u32::to_ne_bytes);
    theirs.write_all(request.as_flattened()).unwrap();
    let mut answer = [[0; 4]; 5];
    theirs.read_exact(answer.as_flattened_mut()).unwrap();
    assert_eq!(answer.map(u32::from_ne_bytes), [18, 5, 8, 1, 0]);
    let why = ended.recv_timeout(TIMEOUT).unwrap();
    assert!(why.contains("vhost-user protocol"), "{why}");
}

#[test]
fn a_broken_ring_is_reported() {
    for (what, break_it) in BREAKAGES {
        let mut qemu = rng();
        qemu.start(&[rng_size()]);
        break_it(&mut qemu.queues[0]);
        qemu.queues[0].notify();
        wait_for(what, || qemu.failure.lock().unwrap().take());
        // A device that has stopped can still be taken away.
        qemu.front.get_vring_base(0).unwrap();
    }
}

/// What a QEMU that was taken over may say: its name, a part of the reason with which the
/// conversation ends, and how it is said.
type Lie = (&'static str, &'static str, fn(&mut Qemu));

/// Lies about memory.
const MEMORY_LIES: &[Lie] = &[
    ("another file's memory", "isn't the machine's", |qemu| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MEMORY_SIZE as u64).unwrap();
        let mut table = qemu.table();
        table[1].mmap_handle = file.as_raw_fd();
        let _ = qemu.front.set_mem_table(&table);
    }),
    (
        "memory beyond the machine's",
        "isn't the machine's",
        |qemu| {
            let mut table = qemu.table();
            table[1].memory_size += 4096;
            let _ = qemu.front.set_mem_table(&table);
        },
    ),
    ("memory at another place", "isn't the machine's", |qemu| {
        let mut table = qemu.table();
        table[1].guest_phys_addr += 4096;
        table[1].memory_size -= 4096;
        let _ = qemu.front.set_mem_table(&table);
    }),
    ("memory that wraps around", "invalid message", |qemu| {
        let mut table = qemu.table();
        table[0].userspace_addr = u64::MAX - 0x1000;
        let _ = qemu.front.set_mem_table(&table);
    }),
];

/// Lies about a ring.
const RING_LIES: &[Lie] = &[
    (
        "a ring outside of the table",
        "isn't in the memory table",
        |qemu| {
            let mut address = qemu.address(0);
            address.used_ring_addr = THEIRS + 0xe_0000;
            let _ = qemu.front.set_vring_addr(0, &address);
        },
    ),
    (
        "a ring before the table",
        "isn't in the memory table",
        |qemu| {
            let mut address = qemu.address(0);
            address.desc_table_addr = THEIRS - 16;
            let _ = qemu.front.set_vring_addr(0, &address);
        },
    ),
    (
        "a ring that leaves memory",
        "isn't in guest memory",
        |qemu| {
            let mut address = qemu.address(0);
            address.used_ring_addr = THEIRS + MEMORY_SIZE as u64 - 4;
            qemu.front.set_vring_num(0, 8).unwrap();
            qemu.front.set_vring_addr(0, &address).unwrap();
            let kick = qemu.queues[0].notification();
            qemu.front.set_vring_kick(0, kick).unwrap();
            let _ = qemu.front.set_vring_enable(0, true);
        },
    ),
    (
        "a size that is no power of two",
        "a size that isn't offered",
        |qemu| {
            let _ = qemu.front.set_vring_num(0, 100);
        },
    ),
    (
        "a size above the largest",
        "a size that isn't offered",
        |qemu| {
            let _ = qemu.front.set_vring_num(0, 2048);
        },
    ),
    ("a change of a ring at work", "can't be changed", |qemu| {
        qemu.start(&[rng_size()]);
        let address = qemu.address(0);
        let _ = qemu.front.set_vring_addr(0, &address);
    }),
];

/// Lies about events and features.
const OTHER_LIES: &[Lie] = &[
    ("an event that is a file", "isn't an event", |qemu| {
        // SAFETY: the descriptor is a new file's, and nobody else's.
        let file = unsafe { EventFd::from_raw_fd(tempfile::tempfile().unwrap().into_raw_fd()) };
        let _ = qemu.front.set_vring_kick(0, &file);
    }),
    ("features that aren't offered", "doesn't offer", |qemu| {
        let _ = qemu
            .front
            .set_features(FEATURES | PROTOCOL_FEATURES | 1 << 40);
    }),
];

/// Each thing that a QEMU that was taken over may send goes to a fresh device: the conversation
/// ends with a reason.
#[test]
fn what_qemu_must_not_say_ends_the_conversation() {
    for (what, expected, say) in [MEMORY_LIES, RING_LIES, OTHER_LIES].concat() {
        let mut qemu = rng();
        qemu.set_features_and_memory();
        say(&mut qemu);
        let failure = qemu.failure();
        assert!(failure.contains(expected), "{what}: {failure}");
    }
}

#[test]
fn a_ring_before_its_features_is_refused() {
    let qemu = rng();
    let address = qemu.address(0);
    assert!(qemu.front.set_vring_addr(0, &address).is_err());
    assert!(qemu.failure().contains("isn't in the memory table"));
}

#[test]
fn noise_ends_the_conversation() {
    let (mut theirs, ended) = listening();
    let (seed, mut bytes) = (fuzz_seed(), [0; 4096]);
    // Shown if the test fails.
    println!("{FUZZ_SEED}={seed}");
    noise(seed, &mut bytes);
    // No request has this number.
    bytes[..4].copy_from_slice(&0xffffu32.to_le_bytes());
    theirs.write_all(&bytes).unwrap();
    let why = ended.recv_timeout(TIMEOUT).unwrap();
    assert!(why.contains("vhost-user protocol"), "{why}");
}
