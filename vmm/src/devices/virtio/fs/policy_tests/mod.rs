//! Acts as a guest that was taken over: sends what no kernel would send for its container.

mod attributes;
mod owners;
mod set_ids;

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use virtiofsd::fuse::SetattrIn;
use vm_memory::ByteValued;

use super::mount_id::mount_id;
use super::served_tests::{mount, with_mounts};
use super::tests::{Guest, MKDIR, OPEN, ROOT};
use super::*;

const SETATTR: u32 = 4;
const MKNOD: u32 = 8;

const FATTR_MODE: u32 = 1;

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

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }
}

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
