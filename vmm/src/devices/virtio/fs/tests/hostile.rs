//! What a guest that misbehaves asks for, and resets.

use super::*;

#[test]
fn no_name_leads_out() {
    let mut guest = Guest::new();
    fs::create_dir(guest.path("inside")).unwrap();
    fs::write(guest.directory.path().join("secret"), "secret").unwrap();
    let inside = guest.lookup(ROOT, "inside").unwrap().nodeid;

    let own = ["", "inside"].map(|name| fs::metadata(guest.path(name)).unwrap().ino());
    for node in [ROOT, inside] {
        for name in [
            "..",
            "../secret",
            "../../secret",
            "/etc/passwd",
            "../../../etc/passwd",
        ] {
            if let Ok(entry) = guest.lookup(node, name) {
                assert!(own.contains(&entry.attr.ino), "{name} from {node}");
            }
        }
        let mkdir = MkdirIn {
            mode: 0o755,
            umask: 0,
        };
        let body = [mkdir.as_slice(), b"../../../../escaped\0"];
        let _ = guest.request(MKDIR, node, &body);
        let _ = guest.request(SYMLINK, node, &[b"../../link\0/etc\0"]);
        let _ = guest.request(UNLINK, node, &[b"../secret\0"]);
        let _ = guest.request(UNLINK, node, &[b"../../secret\0"]);
        let new_parent = ROOT.to_le_bytes();
        let _ = guest.request(RENAME, node, &[&new_parent, b"inside\0../moved\0"]);
    }
    let outside: BTreeSet<_> = fs::read_dir(guest.directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(outside, BTreeSet::from(["export".into(), "secret".into()]));
    assert!(!PathBuf::from("/escaped").exists() && !PathBuf::from("/link").exists());
}

#[test]
fn an_old_guest_is_refused() {
    let mut guest = Guest::unmounted();
    for (flags, flags2) in [(0, 0), (1 << 27, 0), (!(1 << 27), 1 << 2)] {
        let body = Guest::init_body(flags, flags2);
        let refused = guest.request(INIT, 0, &[&body]).unwrap_err();
        assert_eq!(refused, libc::EPROTO);
    }
    guest.mount();
}

#[test]
fn offsets_that_no_file_has_are_refused() {
    let mut guest = Guest::new();
    let (entry, handle) = guest.create("file", 0o644);
    for offset in [u64::MAX, u64::MAX - 50, i64::MAX as u64, 1 << 63] {
        let read = guest.read(entry.nodeid, handle, offset, 100);
        assert_eq!(read, Err(libc::EINVAL), "{offset:#x}");
        let written = guest.write(entry.nodeid, handle, offset, b"x");
        assert_eq!(written, Err(libc::EINVAL), "{offset:#x}");
    }
}

#[test]
fn requests_that_make_no_sense_are_answered() {
    let mut guest = Guest::new();
    let header = guest.header(LOOKUP, ROOT, 0);
    for length in [0, 39, 41, 1 << 20, u32::MAX] {
        let header = InHeader {
            len: length,
            ..header
        };
        let error = guest.raw_request(&header, &[]).unwrap_err();
        assert_eq!(error, libc::EINVAL, "length {length}");
    }
    assert_eq!(guest.request(LOOKUP, ROOT, &[b"no end"]), Err(libc::EINVAL));
    assert_eq!(guest.request(LOOKUP, 999, &[b"x\0"]), Err(libc::EBADF));
    assert_eq!(guest.request(4711, ROOT, &[]), Err(libc::ENOSYS));
    assert_eq!(guest.read(ROOT, 999, 0, 10), Err(libc::EBADF));
}

#[test]
fn requests_without_room_for_an_answer_are_survived() {
    let mut guest = Guest::new();
    let handle = guest.open(OPENDIR, ROOT);
    for opcode in [LOOKUP, READ, READDIR, 44, INIT, OPEN, 51] {
        let read = ReadIn {
            fh: handle,
            size: 8,
            ..Default::default()
        };
        let header = guest.header(opcode, ROOT, size_of::<ReadIn>());
        guest.machine.write(IN, header.as_slice());
        guest.machine.write(IN + 40, read.as_slice());
        for room in [0, 1, 8, 15, 16, 17] {
            let parts = [(IN, 80, false), (OUT, room, true)];
            guest.machine.queues[REQUESTS].run(&parts);
        }
    }
    // Less than a header; then too little to know what to answer.
    let parts = [(IN, 39, false), (OUT, 100, true)];
    assert_eq!(guest.machine.queues[REQUESTS].run(&parts), 16);
    let parts = [(IN, 15, false), (OUT, 100, true)];
    assert_eq!(guest.machine.queues[REQUESTS].run(&parts), 0);
    assert_eq!(guest.machine.queues[REQUESTS].run(&[(OUT, 100, true)]), 0);
    assert_eq!(guest.machine.interrupt.failure(), None);
    guest.lookup(ROOT, "missing").unwrap_err();
}

#[test]
fn garbage_is_survived() {
    let mut guest = Guest::new();
    let (_, handle) = guest.create("file", 0o644);
    let mut state = 7u64;
    let mut random = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        state >> 33
    };
    let no_reply = [FORGET, 36, 38, 42];
    for round in 0..40 {
        for opcode in (0..60).filter(|opcode| !no_reply.contains(opcode)) {
            let length = (random() % 200) as usize;
            let mut body: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            if round % 2 == 0 && length > 40 {
                // To get past the first checks: a handle that exists, small numbers, a name.
                body[..8].copy_from_slice(&handle.to_le_bytes());
                body[8..32].fill(0);
                body[39] = 0;
            }
            let _ = guest.request(opcode, random() % 4, &[&body]);
        }
    }
    assert_eq!(guest.machine.interrupt.failure(), None);
}

#[test]
fn forgetting_goes_through_either_queue() {
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "").unwrap();
    for queue in [HIPRIO, REQUESTS] {
        let entry = guest.lookup(ROOT, "file").unwrap();
        let header = guest.header(FORGET, entry.nodeid, 8);
        guest.machine.write(IN, header.as_slice());
        guest.machine.write(IN + 40, &1u64.to_le_bytes());
        assert_eq!(guest.machine.queues[queue].run(&[(IN, 48, false)]), 0);
        let open = OpenIn::default();
        let forgotten = guest.request(OPEN, entry.nodeid, &[open.as_slice()]);
        assert_eq!(forgotten, Err(libc::EBADF));
    }
}

#[test]
fn a_reset_forgets_everything() {
    let mut guest = Guest::new();
    let (entry, handle) = guest.create("file", 0o644);
    guest.machine.device.reset();
    guest.machine.activate();
    assert_eq!(guest.lookup(ROOT, "file").unwrap_err(), libc::EBADF);
    guest.mount();
    assert!(guest.read(entry.nodeid, handle, 0, 10).is_err());
    guest.lookup(ROOT, "file").unwrap();
}

#[test]
fn few_files_that_are_left_raise_an_alarm() {
    let alarm = EventFd::new(EFD_NONBLOCK).unwrap();
    let told = alarm.try_clone().unwrap();
    // SAFETY: the descriptor is new, and nobody else owns it.
    let alarm = unsafe { OwnedFd::from_raw_fd(alarm.into_raw_fd()) };
    // Half of them belong to another device.
    let mut guest =
        Guest::prepared(|device, _| device.with_part_of_files(34, 2).with_alarm(Arc::new(alarm)));
    guest.mount();
    let raised = || told.read().is_ok();
    let make = |guest: &mut Guest, name: u32| {
        let (name, options) = (name.to_string(), MkdirIn::default());
        let body = [options.as_slice(), name.as_bytes(), b"\0"];
        let answer = guest.request(MKDIR, ROOT, &body).unwrap();
        EntryOut::from_slice(&answer).unwrap().nodeid
    };
    let learn = |guest: &mut Guest, names: std::ops::Range<u32>| -> Vec<u64> {
        names.map(|name| make(guest, name)).collect()
    };
    let mut nodes = learn(&mut guest, 0..10);
    guest.lookup(ROOT, "0").unwrap();
    guest.lookup(ROOT, "0").unwrap();
    assert!(!raised());
    let handle = guest.open(OPENDIR, ROOT);
    assert!(!raised());
    nodes.extend(learn(&mut guest, 10..11));
    assert!(raised());
    // Each time there is another sixteenth of them.
    nodes.extend(learn(&mut guest, 11..12));
    assert!(raised());
    // What is forgotten and closed makes room again.
    let release = [handle.to_le_bytes().as_slice(), &[0; 16]].concat();
    guest.request(RELEASEDIR, ROOT, &[&release]).unwrap();
    for node in nodes.drain(..6) {
        let header = guest.header(FORGET, node, 8);
        guest.machine.write(IN, header.as_slice());
        guest.machine.write(IN + 40, &9u64.to_le_bytes());
        guest.machine.queues[HIPRIO].run(&[(IN, 48, false)]);
    }
    learn(&mut guest, 20..25);
    assert!(!raised());
    learn(&mut guest, 25..26);
    assert!(raised());
    // When none is left, each failure raises the alarm.
    learn(&mut guest, 26..30);
    assert!(raised());
    for _ in 0..2 {
        assert_eq!(guest.lookup(ROOT, "0").unwrap_err(), libc::ENFILE);
        assert!(raised());
    }
}

#[test]
fn broken_queues_stop_the_device() {
    let directory = tempfile::tempdir().unwrap();
    for index in [HIPRIO, REQUESTS] {
        let new = || Fs::new("shared", directory.path()).unwrap();
        break_queue(index, new, reads_a_file);
    }
}

#[test]
fn what_was_left_when_the_device_stopped_is_done_when_it_goes_on() {
    let mut guest = Guest::unmounted();
    guest.machine.device.reset();
    let body = Guest::init_body(0, 0);
    let header = guest.header(INIT, 0, body.len());
    guest
        .machine
        .write(IN, &[header.as_slice(), &body].concat());
    let length = header.len;
    guest.machine.queues[REQUESTS].add(&[(IN, length, false), (OUT, OUT_SIZE, true)]);
    let activation = guest.machine.activation();
    guest.machine.device.activate(activation).unwrap();
    assert!(guest.machine.queues[REQUESTS].used().1 >= 16);
}
