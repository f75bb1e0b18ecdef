//! Acts as a guest that was taken over: sends what no kernel would send for its container.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use virtiofsd::fuse::SetattrIn;
use vm_memory::ByteValued;

use super::mount_id::mount_id;
use super::served_tests::{mount, with_mounts};
use super::tests::{CREATE, Guest, MKDIR, OPEN, OPENDIR, ROOT, SYMLINK};
use super::*;

const SETATTR: u32 = 4;
const MKNOD: u32 = 8;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;

const FATTR_MODE: u32 = 1;
const FATTR_UID: u32 = 2;
const FATTR_GID: u32 = 4;
const FATTR_FH: u32 = 1 << 6;

const PLAIN: MountFlags = MountFlags {
    nosuid: false,
    nodev: false,
};
const RESTRICTED: MountFlags = MountFlags {
    nosuid: true,
    nodev: true,
};

/// Those of user 1000 without capabilities.
fn none() -> Rights {
    Rights {
        makes_devices: false,
        administers: false,
        keeps_set_ids: false,
        acts_as_owner: false,
        sets_capabilities: false,
        users: Ids::Only(vec![1000..=1000]),
        groups: Ids::Only(vec![1000..=1000]),
    }
}

/// Those of root with Docker's capabilities.
fn usual() -> Rights {
    Rights {
        makes_devices: true,
        administers: false,
        keeps_set_ids: true,
        acts_as_owner: true,
        sets_capabilities: true,
        users: Ids::Any,
        groups: Ids::Any,
    }
}

/// Makes a guest of a directory on a mount with these flags.
fn guest(rights: Rights, flags: MountFlags) -> Guest {
    let mut guest = Guest::prepared(|device, export| {
        let id = mount_id(&File::open(export).unwrap()).unwrap().unwrap();
        let policy = Policy::new(HashMap::from([(id, flags)]));
        policy.enforce(rights);
        device.with_policy(Arc::new(policy))
    });
    guest.mount();
    guest
}

fn is_root() -> bool {
    // SAFETY: geteuid() always succeeds.
    unsafe { libc::geteuid() == 0 }
}

impl Guest {
    fn mknod(&mut self, name: &str, mode: u32, device: u32) -> Result<(), i32> {
        let head = [mode, device, 0, 0].map(u32::to_le_bytes);
        let body = [head.as_flattened(), name.as_bytes(), b"\0"];
        self.request(MKNOD, ROOT, &body).map(drop)
    }

    fn setattr(&mut self, name: &str, set: SetattrIn) -> Result<(), i32> {
        let node = self.lookup(ROOT, name).unwrap().nodeid;
        self.request(SETATTR, node, &[set.as_slice()]).map(drop)
    }

    fn chmod(&mut self, name: &str, mode: u32) -> Result<(), i32> {
        let valid = FATTR_MODE;
        self.setattr(
            name,
            SetattrIn {
                valid,
                mode,
                ..Default::default()
            },
        )
    }

    fn chown(&mut self, name: &str, valid: u32, id: u32) -> Result<(), i32> {
        self.setattr(
            name,
            SetattrIn {
                valid,
                uid: id.into(),
                gid: id.into(),
                ..Default::default()
            },
        )
    }

    fn setxattr(&mut self, file: &str, name: &CStr, value: &[u8]) -> Result<(), i32> {
        let node = self.lookup(ROOT, file).unwrap().nodeid;
        // Size, flags, and those of SETXATTR_EXT, which was negotiated.
        let head = [value.len() as u32, 0, 0, 0].map(u32::to_le_bytes);
        let body = [head.as_flattened(), name.to_bytes_with_nul(), value];
        self.request(SETXATTR, node, &body).map(drop)
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }
}

/// Sets an attribute on the host, if that is possible here.
fn set_on_host(path: &Path, name: &CStr) -> bool {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the strings live as long as the call, and so does the value of one byte.
    0 == unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), b"x".as_ptr().cast(), 1, 0) }
}

/// A capability of a program over the first user namespace: CAP_SETUID, effective.
const FILE_CAPABILITY: [u8; 20] = {
    let mut value = [0; 20];
    value[0] = 1;
    value[3] = 2;
    value[4] = 1 << 7;
    value
};

#[test]
#[ignore = "needs root"]
fn no_device_reaches_the_host_without_a_right_to_it() {
    if !is_root() {
        panic!("skipped: it needs root, to make devices");
    }
    let nodes = [
        (libc::S_IFBLK, 0x801),
        (libc::S_IFCHR, 0x103),
        (libc::S_IFCHR, 1 << 20),
    ];
    for (rights, flags) in [(none(), PLAIN), (usual(), RESTRICTED)] {
        let mut guest = guest(rights, flags);
        guest.uid = 1000;
        guest.gid = 1000;
        fs::set_permissions(guest.path(""), PermissionsExt::from_mode(0o777)).unwrap();
        for (kind, device) in nodes {
            let refused = guest.mknod("node", kind | 0o666, device);
            assert_eq!(refused, Err(libc::EPERM));
        }
        assert!(!guest.path("node").exists());
        // Overlays' whiteouts, FIFOs and sockets are nobody's devices.
        guest.mknod("whiteout", libc::S_IFCHR, 0).unwrap();
        guest.mknod("fifo", libc::S_IFIFO | 0o600, 0).unwrap();
        guest.mknod("socket", libc::S_IFSOCK | 0o600, 0).unwrap();
    }
    // As layers of images need it.
    let mut guest = guest(usual(), PLAIN);
    guest.mknod("node", libc::S_IFCHR | 0o666, 0x103).unwrap();
    let made = fs::metadata(guest.path("node")).unwrap();
    assert!(made.file_type().is_char_device());
    assert_eq!(made.rdev(), libc::makedev(1, 3));
}

#[test]
fn set_id_bits_do_not_stay_where_they_have_no_effect() {
    for (flags, kept) in [(RESTRICTED, 0o755), (PLAIN, 0o6755)] {
        let mut guest = guest(usual(), flags);
        guest.create("created", 0o6755);
        guest.create("created as another", libc::S_IFIFO | 0o6755);
        guest.mknod("made", libc::S_IFREG | 0o6755, 0).unwrap();
        guest.mknod("made of no kind", 0o6755, 0).unwrap();
        fs::write(guest.path("changed"), "").unwrap();
        guest.chmod("changed", libc::S_IFREG | 0o6755).unwrap();
        // Whatever kind the guest says that it is.
        fs::write(guest.path("lied about"), "").unwrap();
        guest.chmod("lied about", libc::S_IFDIR | 0o6755).unwrap();
        for name in [
            "created",
            "created as another",
            "made",
            "made of no kind",
            "changed",
            "lied about",
        ] {
            assert_eq!(guest.mode(name), kept, "{name}");
        }
        // Those of directories say whose what is in them is.
        let mkdir = [0o2775, 0].map(u32::to_le_bytes);
        guest
            .request(MKDIR, ROOT, &[mkdir.as_flattened(), b"directory\0"])
            .unwrap();
        guest.chmod("directory", libc::S_IFDIR | 0o2775).unwrap();
        assert_eq!(guest.mode("directory"), 0o2775);
    }
}

#[test]
#[ignore = "needs root"]
fn a_set_id_program_that_is_written_to_loses_its_bits() {
    if !is_root() {
        panic!("skipped: it needs root");
    }
    for (rights, left) in [(none(), 0o755), (usual(), 0o4755)] {
        let mut guest = guest(rights, PLAIN);
        for name in ["written", "truncated"] {
            fs::write(guest.path(name), "program").unwrap();
            let mode = PermissionsExt::from_mode(0o4755);
            fs::set_permissions(guest.path(name), mode).unwrap();
        }
        // The guest doesn't ask for it.
        let node = guest.lookup(ROOT, "written").unwrap().nodeid;
        let handle = guest.open(OPEN, node);
        guest.write(node, handle, 0, b"another").unwrap();
        assert_eq!(guest.mode("written"), left);
        let set = SetattrIn {
            valid: 1 << 3,
            size: 3,
            ..Default::default()
        };
        guest.setattr("truncated", set).unwrap();
        assert_eq!(guest.mode("truncated"), left);
    }
}

#[test]
#[ignore = "needs root, and extended attributes"]
fn attributes_that_take_rights_are_refused_and_not_listed() {
    let mut guest = guest(none(), RESTRICTED);
    let path = guest.path("file");
    fs::write(&path, "").unwrap();
    if !set_on_host(&path, c"trusted.hidden") || !set_on_host(&path, c"user.shown") {
        panic!("skipped: attributes can't be set here");
    }
    for name in [c"trusted.new", c"trusted.overlay.opaque", c"security.ima"] {
        assert_eq!(guest.setxattr("file", name, b"x"), Err(libc::EPERM));
    }
    let capability = c"security.capability";
    let refused = guest.setxattr("file", capability, &FILE_CAPABILITY);
    assert_eq!(refused, Err(libc::EPERM));
    guest.setxattr("file", c"user.new", b"x").unwrap();

    let node = guest.lookup(ROOT, "file").unwrap().nodeid;
    let hidden = b"trusted.hidden\0";
    let get = [9, 0].map(u32::to_le_bytes);
    let read = guest.request(GETXATTR, node, &[get.as_flattened(), hidden]);
    assert_eq!(read, Err(libc::ENODATA));
    let removed = guest.request(REMOVEXATTR, node, &[hidden]);
    assert_eq!(removed, Err(libc::EPERM));

    let mut list = |size: u32| guest.request(LISTXATTR, node, &[&size.to_le_bytes(), &[0; 4]]);
    let shown = String::from_utf8(list(100).unwrap()).unwrap();
    assert!(
        shown.contains("user.shown\0") && !shown.contains("trusted"),
        "{shown:?}"
    );
    let length = shown.len() as u32;
    assert_eq!(list(length).unwrap(), shown.as_bytes());
    assert_eq!(list(0).unwrap()[..4], length.to_le_bytes());
    assert_eq!(list(length - 1), Err(libc::ERANGE));
}

#[test]
fn file_capabilities_follow_the_right_and_the_mount() {
    let name = c"security.capability";
    for (rights, flags, outcome) in [
        (usual(), PLAIN, Ok(())),
        (usual(), RESTRICTED, Err(libc::EOPNOTSUPP)),
        (none(), PLAIN, Err(libc::EPERM)),
    ] {
        let mut guest = guest(rights, flags);
        fs::write(guest.path("file"), "").unwrap();
        if !is_root() && outcome.is_ok() {
            continue;
        }
        let set = guest.setxattr("file", name, &FILE_CAPABILITY);
        assert_eq!(set, outcome);
    }
}

#[test]
#[ignore = "needs root, and extended attributes"]
fn trusted_attributes_are_there_for_who_administers() {
    let administers = Rights {
        administers: true,
        ..none()
    };
    let mut guest = guest(administers, RESTRICTED);
    let path = guest.path("file");
    fs::write(&path, "").unwrap();
    if !set_on_host(&path, c"trusted.hidden") {
        panic!("skipped: attributes can't be set here");
    }
    guest.setxattr("file", c"trusted.new", b"x").unwrap();
    let node = guest.lookup(ROOT, "file").unwrap().nodeid;
    let list = guest.request(LISTXATTR, node, &[&100u32.to_le_bytes(), &[0; 4]]);
    let list = String::from_utf8(list.unwrap()).unwrap();
    assert!(list.contains("trusted.hidden\0") && list.contains("trusted.new\0"));
}

#[test]
#[ignore = "needs root"]
fn only_the_containers_users_own_what_is_made() {
    if !is_root() {
        panic!("skipped: it needs root");
    }
    let mut guest = guest(none(), PLAIN);
    fs::set_permissions(guest.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    let mkdir = [0o755, 0].map(u32::to_le_bytes);
    let create = [(libc::O_RDWR | libc::O_CREAT) as u32, 0o644, 0, 0].map(u32::to_le_bytes);
    for (uid, gid, outcome) in [
        (0, 0, Err(libc::EPERM)),
        (1000, 0, Err(libc::EPERM)),
        (0, 1000, Err(libc::EPERM)),
        (1000, 1000, Ok(())),
    ] {
        (guest.uid, guest.gid) = (uid, gid);
        let answers = [
            guest.request(CREATE, ROOT, &[create.as_flattened(), b"file\0"]),
            guest.request(MKDIR, ROOT, &[mkdir.as_flattened(), b"directory\0"]),
            guest.request(SYMLINK, ROOT, &[b"link\0", b"target\0"]),
            guest
                .mknod("fifo", libc::S_IFIFO | 0o600, 0)
                .map(|()| Vec::new()),
        ];
        assert!(
            answers
                .iter()
                .all(|answer| answer.clone().map(drop) == outcome)
        );
        assert_eq!(guest.path("file").exists(), outcome.is_ok());
    }
    assert_eq!(guest.chown("file", FATTR_UID, 0), Err(libc::EPERM));
    assert_eq!(guest.chown("file", FATTR_GID, 0), Err(libc::EPERM));
    guest.chown("file", FATTR_UID | FATTR_GID, 1000).unwrap();
    let made = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1000));
}

#[test]
#[ignore = "needs root"]
fn what_is_anothers_does_not_become_a_set_id_program() {
    if !is_root() {
        panic!("skipped: it needs root");
    }
    let own = Rights {
        users: Ids::Only(vec![1000..=1000, 2000..=2000]),
        ..none()
    };
    let overriding = Rights {
        keeps_set_ids: true,
        ..own.clone()
    };
    // Who may keep set-id bits may set that of a group on any of their files.
    for (rights, of_another_group) in [(own, 0o4755), (overriding, 0o6755)] {
        let mut guest = guest(rights, PLAIN);
        for (name, owners, left) in [
            ("ours", (1000, 1000), 0o6755),
            ("our other user's", (2000, 1000), 0o6755),
            ("another group's", (1000, 5), of_another_group),
            ("root's", (0, 0), 0o755),
            ("another's, of our group", (0, 1000), 0o755),
        ] {
            fs::write(guest.path(name), "program").unwrap();
            chown(guest.path(name), Some(owners.0), Some(owners.1)).unwrap();
            guest.chmod(name, 0o6755).unwrap();
            assert_eq!(guest.mode(name), left, "{name}");
        }
    }
}

/// Whoever shares the volume can put something else under a new file's name before virtiofsd looks
/// it up: the handle is the file's, and the node the other's.
#[test]
fn a_handle_of_another_file_is_no_way_around() {
    let mut guest = guest(usual(), RESTRICTED);
    for attempt in 0..2000 {
        let [file, directory] = ["file", "directory"].map(|kind| format!("{kind}{attempt}"));
        fs::create_dir(guest.path(&directory)).unwrap();
        let [from, to] = [&file, &directory].map(|name| {
            let path = guest.path(name);
            CString::new(path.as_os_str().as_bytes()).unwrap()
        });
        let exchange = std::thread::spawn(move || {
            let (at, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
            // SAFETY: strings that outlive the call.
            let exchanged =
                || unsafe { libc::renameat2(at, from.as_ptr(), at, to.as_ptr(), flags) };
            while exchanged() != 0 {}
        });
        let (entry, handle) = guest.create(&file, 0o755);
        exchange.join().unwrap();
        if entry.attr.mode & libc::S_IFMT != libc::S_IFDIR {
            continue;
        }
        let set = SetattrIn {
            valid: FATTR_MODE | FATTR_FH,
            fh: handle,
            mode: libc::S_IFDIR | 0o6755,
            ..Default::default()
        };
        guest
            .request(SETATTR, entry.nodeid, &[set.as_slice()])
            .unwrap();
        // The file, which has the directory's name now.
        assert!(guest.path(&directory).is_file());
        assert_eq!(guest.mode(&directory), 0o755);
        return;
    }
    panic!("the file was never exchanged in time");
}

#[test]
#[ignore = "needs root"]
fn a_directory_gives_files_its_group_but_not_its_rights() {
    if !is_root() {
        panic!("skipped: it needs root");
    }
    for (group, left) in [(5, 0o4755), (1000, 0o6755)] {
        let mut guest = guest(none(), PLAIN);
        (guest.uid, guest.gid) = (1000, 1000);
        chown(guest.path(""), Some(1000), Some(group)).unwrap();
        fs::set_permissions(guest.path(""), PermissionsExt::from_mode(0o2777)).unwrap();
        guest.create("created", 0o6755);
        guest.mknod("made", libc::S_IFREG | 0o6755, 0).unwrap();
        for name in ["created", "made"] {
            assert_eq!(fs::metadata(guest.path(name)).unwrap().gid(), group);
            assert_eq!(guest.mode(name), left, "{name}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn nobody_is_in_groups_that_the_container_is_not_in() {
    if !is_root() {
        panic!("skipped: it needs root");
    }
    let mut guest = guest(none(), PLAIN);
    (guest.uid, guest.gid) = (1000, 1000);
    let mkdir = [0o755, 0].map(u32::to_le_bytes);
    for (group, outcome) in [(5, Err(libc::EPERM)), (1000, Ok(()))] {
        // `struct fuse_ext_header` of the kind FUSE_EXT_GROUPS, and `struct fuse_supp_groups`.
        let groups = [16, 32, 1, group].map(u32::to_le_bytes);
        let body = [mkdir.as_flattened(), b"new\0", groups.as_flattened()];
        assert_eq!(guest.request(MKDIR, ROOT, &body).map(drop), outcome);
    }
}

/// Such a file would be root's, whoever the container's users are.
#[test]
fn opening_makes_no_file() {
    let mut guest = guest(none(), PLAIN);
    for opcode in [OPEN, OPENDIR] {
        let open = [(libc::O_TMPFILE | libc::O_RDWR) as u32, 0].map(u32::to_le_bytes);
        let refused = guest.request(opcode, ROOT, &[open.as_flattened()]);
        assert_eq!(refused.map(drop), Err(libc::EINVAL));
    }
}

/// With `CAP_SYS_RESOURCE` the host's kernel doesn't count what a disk's quota allows.
#[test]
#[ignore = "needs root, with CAP_SYS_RESOURCE"]
fn the_hosts_quotas_are_not_overstepped() {
    if !is_root() {
        panic!("skipped: it needs root");
    }
    const CAP_SYS_RESOURCE: u32 = 24;
    let can_overstep = |task: &Path| {
        let text = fs::read_to_string(task.join("status")).unwrap();
        let effective = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = u64::from_str_radix(effective.unwrap().trim(), 16).unwrap();
        effective & 1 << CAP_SYS_RESOURCE != 0
    };
    if !can_overstep(Path::new("/proc/thread-self")) {
        panic!("skipped: it needs CAP_SYS_RESOURCE");
    }
    let _guest = Guest::new();
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let is_server = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap() == "fs\n";
    let servers: Vec<_> = tasks.filter(is_server).collect();
    assert!(!servers.is_empty());
    assert!(!servers.iter().any(|task| can_overstep(task)));
}

/// The host's own flag holds, whatever the guest sends.
#[test]
fn what_is_read_only_is_so_mount_by_mount() {
    with_mounts(|guest| {
        for name in ["source", "place"] {
            fs::create_dir(guest.path(name)).unwrap();
        }
        fs::write(guest.path("source/file"), "data").unwrap();
        let (source, place) = (guest.path("source"), guest.path("place"));
        mount(source.to_str().unwrap(), &place, None, libc::MS_BIND);
        let again = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        mount("", &place, None, again);
        let place = guest.lookup(ROOT, "place").unwrap().nodeid;
        let file = guest.lookup(place, "file").unwrap().nodeid;
        let open = [libc::O_RDWR as u32, 0].map(u32::to_le_bytes);
        let mkdir = [0o755, 0].map(u32::to_le_bytes);
        let mknod = [libc::S_IFIFO, 0, 0, 0].map(u32::to_le_bytes);
        let chmod = SetattrIn {
            valid: FATTR_MODE,
            mode: 0o777,
            ..Default::default()
        };
        for refused in [
            guest.request(OPEN, file, &[open.as_flattened()]),
            guest.request(MKDIR, place, &[mkdir.as_flattened(), b"new\0"]),
            guest.request(MKNOD, place, &[mknod.as_flattened(), b"new\0"]),
            guest.request(SETATTR, file, &[chmod.as_slice()]),
        ] {
            assert_eq!(refused, Err(libc::EROFS));
        }
        // Through the other mount the same file can be written to.
        let source = guest.lookup(ROOT, "source").unwrap().nodeid;
        let file = guest.lookup(source, "file").unwrap().nodeid;
        guest.request(OPEN, file, &[open.as_flattened()]).unwrap();
    });
}
