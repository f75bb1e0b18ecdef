//! What a guest that behaves does with files.

use super::*;

#[test]
fn configuration_and_tags() {
    let guest = Guest::unmounted();
    let mut config = [0; MAX_TAG + 4];
    guest.machine.device.read_config(0, &mut config);
    assert_eq!(&config[..7], b"shared\0");
    assert_eq!(config[MAX_TAG..], [1, 0, 0, 0]);
    assert_eq!(guest.machine.device.device_type(), 26);

    let root = guest.directory.path();
    for tag in ["", "a\0b", &"x".repeat(37)] {
        assert!(Fs::new(tag, root).is_err(), "{tag:?}");
    }
    assert!(Fs::new("x", &root.join("missing")).is_err());
    fs::write(root.join("file"), "").unwrap();
    assert!(Fs::new("x", &root.join("file")).is_err());
}

#[test]
fn files_are_read_and_written() {
    let mut guest = Guest::new();
    fs::write(guest.path("hello"), "from the host").unwrap();
    let entry = guest.lookup(ROOT, "hello").unwrap();
    assert_eq!(entry.attr.size, 13);
    assert_eq!(guest.lookup(ROOT, "missing").unwrap_err(), libc::ENOENT);

    let handle = guest.open(OPEN, entry.nodeid);
    assert_eq!(
        guest.read(entry.nodeid, handle, 5, 100).unwrap(),
        b"the host"
    );
    guest.write(entry.nodeid, handle, 9, b"guest").unwrap();
    let content = fs::read_to_string(guest.path("hello")).unwrap();
    assert_eq!(content, "from the guest");

    // The next read sees what the host has changed.
    fs::write(guest.path("hello"), "changed").unwrap();
    assert_eq!(
        guest.read(entry.nodeid, handle, 0, 100).unwrap(),
        b"changed"
    );
}

#[test]
fn a_guest_with_a_limit_is_held_and_copies_by_itself() {
    const COPY_FILE_RANGE: u32 = 47;
    // The host's answer to a guest without a limit is about the file, which isn't open.
    let copy = |guest: &mut Guest| {
        guest
            .request(COPY_FILE_RANGE, ROOT, &[&[0; 56]])
            .unwrap_err()
    };
    assert_ne!(copy(&mut Guest::new()), libc::ENOSYS);

    let rate = Rate {
        per_second: 10 << 10,
        burst: 10 << 10,
    };
    let limit = RateLimit {
        bytes: Some(rate),
        operations: None,
    };
    let begin = Instant::now();
    let mut guest = Guest::prepared(|device, _| device.with_throttle(Throttle::new(limit)));
    guest.mount();
    assert_eq!(copy(&mut guest), libc::ENOSYS);
    let (entry, handle) = guest.create("file", 0o644);
    for piece in 0..8 {
        guest
            .write(entry.nodeid, handle, piece << 11, &[7; 2 << 10])
            .unwrap();
    }
    // 16 KiB, of which 10 were there and the last two are owed.
    assert!(begin.elapsed() >= Duration::from_millis(400));
    let all = guest.read(entry.nodeid, handle, 0, 16 << 10).unwrap();
    assert_eq!(all.len(), 16 << 10);
    // It owes the answer now, and stops all the same.
    let begin = Instant::now();
    guest.machine.device.reset();
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn cached_content_is_kept_as_long_as_it_is_good() {
    /// `FOPEN_KEEP_CACHE`
    const KEEP_CACHE: u32 = 1 << 1;
    let a_while = || std::thread::sleep(Duration::from_millis(50));
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "old").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().nodeid;
    let mut keeps = || guest.open_with_options(OPEN, node).1 & KEEP_CACHE != 0;
    // Another change at this point could have the same time.
    assert!(!keeps());
    assert!(!keeps());
    a_while();
    assert!(!keeps());
    assert!(keeps());
    assert!(keeps());
    let path = guest.path("file");
    let mut keeps = || guest.open_with_options(OPEN, node).1 & KEEP_CACHE != 0;
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "new").unwrap();
    // Size and modification time are the same as before.
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(times)
        .unwrap();
    assert!(!keeps());
    a_while();
    assert!(!keeps());
    assert!(keeps());
}

#[test]
fn closing_is_of_no_interest_where_nothing_was_written() {
    /// `FOPEN_NOFLUSH`
    const NOFLUSH: u32 = 1 << 5;
    let mut guest = Guest::new();
    fs::write(guest.path("file"), "").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().nodeid;
    let mut tells = |access| guest.open_for(OPEN, node, access).1 & NOFLUSH == 0;
    assert!(!tells(libc::O_RDONLY));
    assert!(tells(libc::O_WRONLY));
    assert!(tells(libc::O_RDWR));
    assert!(tells(libc::O_WRONLY | libc::O_APPEND));
}

#[test]
fn files_get_the_users_owner_and_mode() {
    let mut guest = Guest::new();
    let mode = PermissionsExt::from_mode(0o777);
    fs::set_permissions(guest.path(""), mode).unwrap();
    (guest.uid, guest.gid) = (1000, 1001);
    guest.create("theirs", 0o666);
    let made = fs::metadata(guest.path("theirs")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1001));
    assert_eq!(made.mode() & 0o7777, 0o666);

    // The thread is root again afterwards.
    (guest.uid, guest.gid) = (0, 0);
    guest.create("ours", 0o4755);
    let made = fs::metadata(guest.path("ours")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    assert_eq!(made.mode() & 0o7777, 0o4755);
}

#[test]
fn whether_a_user_may_make_a_file_is_the_guests_to_judge() {
    let mut guest = Guest::new();
    // The root of a user namespace in the guest has rights that the host's user with that id lacks.
    let mode = PermissionsExt::from_mode(0o500);
    fs::set_permissions(guest.path(""), mode).unwrap();
    (guest.uid, guest.gid) = (1000, 1001);
    guest.create("theirs", 0o600);
    let made = fs::metadata(guest.path("theirs")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1001));
}

#[test]
fn set_user_id_goes_when_others_write() {
    let mut guest = Guest::new();
    // FUSE_WRITE_KILL_SUIDGID and FUSE_OPEN_KILL_SUIDGID, as the guest decides.
    let (entry, handle) = guest.create("tool", 0o4755);
    let write = WriteIn {
        fh: handle,
        size: 1,
        write_flags: 1 << 2,
        ..Default::default()
    };
    let mode = |guest: &Guest| fs::metadata(guest.path("tool")).unwrap().mode() & 0o7777;
    guest.write(entry.nodeid, handle, 0, b"x").unwrap();
    assert_eq!(mode(&guest), 0o4755);
    guest
        .request(WRITE, entry.nodeid, &[write.as_slice(), b"x"])
        .unwrap();
    assert_eq!(mode(&guest), 0o755);
    // The right to keep the bit is back for the next write.
    fs::set_permissions(guest.path("tool"), PermissionsExt::from_mode(0o4755)).unwrap();
    guest.write(entry.nodeid, handle, 0, b"x").unwrap();
    assert_eq!(mode(&guest), 0o4755);
}

#[test]
fn the_rest_of_the_process_is_left_alone() {
    let of_this_thread = || {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let umask = status.lines().find(|line| line.starts_with("Umask"));
        (
            umask.unwrap().to_owned(),
            fs::read_link("/proc/thread-self/cwd").unwrap(),
            fs::read_link("/proc/thread-self/root").unwrap(),
        )
    };
    let before = of_this_thread();
    let mut guest = Guest::new();
    guest.create("file", 0o777);
    assert_eq!(of_this_thread(), before);
}

#[test]
fn symbolic_links_are_the_guests_to_follow() {
    let mut guest = Guest::new();
    symlink("/etc/passwd", guest.path("link")).unwrap();
    let entry = guest.lookup(ROOT, "link").unwrap();
    assert_eq!(entry.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    let open = OpenIn::default();
    let opened = guest.request(OPEN, entry.nodeid, &[open.as_slice()]);
    assert!(opened.is_err());
}

#[test]
fn listings_stay_whole_while_names_are_removed() {
    let mut guest = Guest::new();
    let expected: BTreeSet<String> = (0..1000).map(|n| format!("file-{n:04}")).collect();
    for name in &expected {
        fs::write(guest.path(name), "").unwrap();
    }
    let handle = guest.open(OPENDIR, ROOT);
    let mut seen = BTreeSet::new();
    let mut position = 0;
    loop {
        let page = guest.list(handle, position, 4096);
        // A reader whose own buffer fills up in the middle of a page asks for the rest again.
        let Some((_, cut)) = page.get(page.len() / 2) else {
            break;
        };
        position = *cut;
        for (name, _) in &page[..=page.len() / 2] {
            if !name.starts_with('.') {
                assert!(seen.insert(name.clone()), "{name} was listed twice");
                fs::remove_file(guest.path(name)).unwrap();
            }
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 0);
}
