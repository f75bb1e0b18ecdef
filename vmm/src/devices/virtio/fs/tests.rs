use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtiofsd::fuse::{
    CreateIn, Dirent, EntryOut, InHeader, InitInCompat, InitInExt, InitOut, MkdirIn, OpenIn,
    OpenOut, OutHeader, ReadIn, WriteIn,
};
use vm_memory::ByteValued;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::throttle::{Rate, RateLimit, Throttle};

const HIPRIO: usize = 0;
const REQUESTS: usize = 1;

const IN: u64 = BUFFERS;
const OUT: u64 = BUFFERS + 0x40_0000;
const OUT_SIZE: u32 = 0x1_0000;

pub(super) const ROOT: u64 = 1;
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
pub(super) const SYMLINK: u32 = 6;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const RENAME: u32 = 12;
pub(super) const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;
pub(super) const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;
pub(super) const CREATE: u32 = 35;

/// A driver with a mounted file system.
pub(super) struct Guest {
    machine: Machine<Fs>,
    unique: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its subdirectory `export` is exported.
    directory: tempfile::TempDir,
}

impl Guest {
    pub(super) fn new() -> Guest {
        let mut guest = Guest::unmounted();
        guest.mount();
        guest
    }

    fn unmounted() -> Guest {
        Guest::prepared(|device, _| device)
    }

    /// Makes a driver of a device that `prepare` has changed.
    pub(super) fn prepared(prepare: impl FnOnce(Fs, &Path) -> Fs) -> Guest {
        let directory = tempfile::tempdir().unwrap();
        let export = directory.path().join("export");
        fs::create_dir(&export).unwrap();
        // The guests in the tests act as several users.
        fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let device = Fs::new("shared", &export).unwrap();
        Guest {
            machine: Machine::new(prepare(device, &export)),
            unique: 0,
            uid: 0,
            gid: 0,
            directory,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("export").join(name)
    }

    fn init_body(flags: u32, flags2: u32) -> Vec<u8> {
        let init = InitInCompat {
            major: 7,
            minor: 38,
            max_readahead: 0x2_0000,
            flags,
        };
        let more = InitInExt {
            flags2,
            ..Default::default()
        };
        [init.as_slice(), more.as_slice()].concat()
    }

    pub(super) fn mount(&mut self) {
        // Everything that Linux offers, including INIT_EXT, SUBMOUNTS and CREATE_SUPP_GROUP.
        let answer = self
            .request(INIT, 0, &[&Guest::init_body(u32::MAX, 1 << 2)])
            .unwrap();
        let answer = InitOut::from_slice(&answer).unwrap();
        assert_eq!(answer.major, 7);
    }

    fn header(&mut self, opcode: u32, node: u64, length: usize) -> InHeader {
        self.unique += 1;
        InHeader {
            len: (size_of::<InHeader>() + length) as u32,
            opcode,
            unique: self.unique,
            nodeid: node,
            uid: self.uid.into(),
            gid: self.gid.into(),
            pid: 1,
            ..Default::default()
        }
    }

    /// Returns the file system's answer, or its error number.
    pub(super) fn request(
        &mut self,
        opcode: u32,
        node: u64,
        body: &[&[u8]],
    ) -> Result<Vec<u8>, i32> {
        let body = body.concat();
        let header = self.header(opcode, node, body.len());
        self.raw_request(&header, &body)
    }

    fn raw_request(&mut self, header: &InHeader, body: &[u8]) -> Result<Vec<u8>, i32> {
        self.machine.write(IN, header.as_slice());
        self.machine.write(IN + 0x1000, body);
        let written = self.machine.queues[REQUESTS].run(&[
            (IN, size_of::<InHeader>() as u32, false),
            (IN + 0x1000, body.len() as u32, false),
            (OUT, 16, true),
            (OUT + 0x1000, OUT_SIZE, true),
        ]);
        assert_eq!(self.machine.interrupt.failure(), None);
        let answer = self.machine.read(OUT, 16);
        let answer = OutHeader::from_slice(&answer).unwrap();
        assert_eq!(answer.unique, header.unique);
        assert_eq!(answer.len, written);
        match answer.error {
            0 => Ok(self.machine.read(OUT + 0x1000, written as usize - 16)),
            error => Err(-error),
        }
    }

    pub(super) fn lookup(&mut self, node: u64, name: &str) -> Result<EntryOut, i32> {
        let answer = self.request(LOOKUP, node, &[name.as_bytes(), b"\0"])?;
        Ok(*EntryOut::from_slice(&answer).unwrap())
    }

    pub(super) fn open(&mut self, opcode: u32, node: u64) -> u64 {
        self.open_with_options(opcode, node).0
    }

    fn open_with_options(&mut self, opcode: u32, node: u64) -> (u64, u32) {
        let access = if opcode == OPEN { libc::O_RDWR } else { 0 };
        self.open_for(opcode, node, access)
    }

    fn open_for(&mut self, opcode: u32, node: u64, access: i32) -> (u64, u32) {
        let open = OpenIn {
            flags: access as u32,
            open_flags: 0,
        };
        let answer = self.request(opcode, node, &[open.as_slice()]).unwrap();
        let answer = OpenOut::from_slice(&answer).unwrap();
        (answer.fh, answer.open_flags)
    }

    fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let read = ReadIn {
            fh: handle,
            offset,
            size,
            ..Default::default()
        };
        self.request(READ, node, &[read.as_slice()])
    }

    pub(super) fn write(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<(), i32> {
        let write = WriteIn {
            fh: handle,
            offset,
            size: data.len() as u32,
            ..Default::default()
        };
        self.request(WRITE, node, &[write.as_slice(), data])
            .map(|_| ())
    }

    pub(super) fn create(&mut self, name: &str, mode: u32) -> (EntryOut, u64) {
        let create = CreateIn {
            flags: (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32,
            mode: libc::S_IFREG | mode,
            umask: 0,
            open_flags: 0,
        };
        let body = [create.as_slice(), name.as_bytes(), b"\0"];
        let answer = self.request(CREATE, ROOT, &body).unwrap();
        let (entry, open) = answer.split_at(size_of::<EntryOut>());
        (
            *EntryOut::from_slice(entry).unwrap(),
            OpenOut::from_slice(open).unwrap().fh,
        )
    }

    /// Lists a page of a directory: names, and the position after each.
    fn list(&mut self, handle: u64, position: u64, size: u32) -> Vec<(String, u64)> {
        let read = ReadIn {
            fh: handle,
            offset: position,
            size,
            ..Default::default()
        };
        let answer = self.request(READDIR, ROOT, &[read.as_slice()]).unwrap();
        let mut rest = &answer[..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(size_of::<Dirent>());
            let entry = *Dirent::from_slice(head).unwrap();
            let name = str::from_utf8(&tail[..entry.namelen as usize]).unwrap();
            names.push((name.to_owned(), entry.off));
            rest = &tail[(entry.namelen as usize).next_multiple_of(8)..];
        }
        names
    }
}

fn reads_a_file(machine: &mut Machine<Fs>) {
    let header = InHeader {
        len: 40 + 64,
        opcode: INIT,
        unique: 1,
        ..Default::default()
    };
    machine.write(IN, header.as_slice());
    machine.write(IN + 40, &Guest::init_body(u32::MAX, 1 << 2));
    let written = machine.queues[REQUESTS].run(&[(IN, 40 + 64, false), (OUT, 80, true)]);
    assert_eq!(written, 80);
}

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
