//! Which of the host's file systems a guest gets, and what happens to the others.
//!
//! [`SERVED`](nacre_vmm::devices::virtio::fs::SERVED) lists those it gets. In all others, what may
//! be done depends on who opens a file, and what serves the guest has all of root's rights:
//! through a shared `/proc` a container could read the memory of any process of the host, which a
//! container on the host's kernel can't.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use nacre_vmm::devices::virtio::fs::not_served;
use nix::mount::{MsFlags, mount};
use rustix::{
    fs::{AtFlags, CWD, StatxFlags, statx},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::isolation::vm::seen_mounts;

/// The names of those that occur, by their number in statfs(2) (`linux/magic.h`).
const NAMES: [(u32, &str); 20] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0xcafe_4a11, "bpf"),
    (0x6265_6570, "configfs"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6573_5543, "fusectl"),
    (0x6e73_6673, "nsfs"),
    (0x1cd1, "devpts"),
    (0x1980_0202, "mqueue"),
    (0x9584_58f6, "hugetlbfs"),
    (0x0187, "autofs"),
    // tmpfs has the same number, but is served.
    (0x0102_1994, "devtmpfs"),
];

/// The type of a file system that isn't served to guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotServed(u32);

impl fmt::Display for NotServed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// Returns the type of the file system at a path, if it isn't served.
pub(in crate::isolation::vm) fn not_served_at(path: &Path) -> io::Result<Option<NotServed>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    not_served_file(&file)
}

/// Returns the type of an open file's file system, if it isn't served.
pub(in crate::isolation::vm) fn not_served_file(file: impl AsFd) -> io::Result<Option<NotServed>> {
    Ok(not_served(file)?.map(NotServed))
}

/// Mounts something empty over every mount that can be seen below the directory `path`, in this
/// mount namespace, and isn't served.
///
/// What lies below such a mount was hidden on purpose, so nothing is unmounted. The device checks
/// every file itself: covers are there so that what a guest sees makes sense. They are made in the
/// directory `covers`, whose file system must be one that is served.
pub(in crate::isolation::vm) fn cover_below(path: &Path, covers: &Path) -> io::Result<()> {
    for mount in seen_mounts::at(path)? {
        if !mount.below.as_os_str().is_empty() && !can_be_served(&mount.file) {
            cover(&mount.file, covers)?;
        }
    }
    Ok(())
}

/// Whether it is served. A file system that can't be asked isn't: its server is gone, or serves
/// only somebody else.
fn can_be_served(seen: &File) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    matches!(not_served(seen), Ok(None)) && statx(seen, "", flags, StatxFlags::TYPE).is_ok()
}

/// Mounts something empty over an open file or directory.
fn cover(seen: &File, covers: &Path) -> io::Result<()> {
    fs::create_dir_all(covers)?;
    // Mounts that don't answer are taken for directories, as the kernel has them.
    let name = if seen.metadata().map_or(true, |metadata| metadata.is_dir()) {
        let name = covers.join("directory");
        fs::create_dir_all(&name)?;
        name
    } else {
        let name = covers.join("file");
        File::options()
            .create(true)
            .append(true)
            .mode(0o444)
            .open(&name)?;
        name
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let empty = open_tree(CWD, &name, flags)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&empty, "", seen, "", both)?;
    // Otherwise the guest could change its owner and mode, for all covers at once.
    let place = format!("/proc/thread-self/fd/{}", empty.as_raw_fd());
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | inert;
    let nothing = None::<&str>;
    Ok(mount(nothing, &*place, nothing, flags, nothing)?)
}

#[cfg(test)]
mod tests {
    use std::{path::PathBuf, thread};

    use nix::{
        mount::{MntFlags, umount2},
        sched::{CloneFlags, unshare},
    };

    use super::*;

    #[test]
    fn what_shows_the_kernel_is_told_by_its_type() {
        let kind = |path: &str| {
            let kind = not_served_at(Path::new(path)).unwrap();
            kind.map(|kind| kind.to_string())
        };
        assert_eq!(kind("/proc/self").as_deref(), Some("proc"));
        assert_eq!(kind("/sys").as_deref(), Some("sysfs"));
        assert_eq!(kind("/"), None);
        assert_eq!(kind("/dev/shm"), None);
        assert_eq!(NotServed(0x1234_5678).to_string(), "0x12345678");
    }

    /// A directory in the calling thread's mount namespace, and a place for covers.
    struct Scene {
        top: PathBuf,
        covers: PathBuf,
    }

    impl Scene {
        fn mount(&self, kind: &str, name: &str) {
            let point = self.top.join(name);
            if !point.exists() {
                fs::create_dir_all(&point).unwrap();
            }
            mount(
                Some(kind),
                &point,
                Some(kind),
                MsFlags::empty(),
                None::<&str>,
            )
            .unwrap();
        }

        fn bind(&self, source: &str, name: &str) {
            let point = self.top.join(name);
            let nothing = None::<&str>;
            mount(Some(source), &point, nothing, MsFlags::MS_BIND, nothing).unwrap();
        }

        fn cover(&self) {
            cover_below(&self.top, &self.covers).unwrap();
        }

        fn is_empty(&self, name: &str) -> bool {
            let path = self.top.join(name);
            if path.is_dir() {
                fs::read_dir(path).unwrap().count() == 0
            } else {
                fs::read(path).unwrap().is_empty()
            }
        }
    }

    /// Runs `test` as root in a thread whose mounts are its own.
    fn with_mounts(test: impl FnOnce(&Scene) + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            panic!("skipped: it needs root, to mount");
        }
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let (nothing, flags) = (None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC);
            mount(nothing, "/", nothing, flags, nothing).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let directory_path = fs::canonicalize(directory.path()).unwrap();
            let scene = Scene {
                top: directory_path.join("top"),
                covers: directory_path.join("covers"),
            };
            fs::create_dir(&scene.top).unwrap();
            test(&scene);
            umount2(&scene.top, MntFlags::MNT_DETACH).unwrap();
        });
        thread.join().unwrap();
    }

    #[test]
    #[ignore = "needs root, to mount"]
    fn what_is_not_served_is_covered() {
        with_mounts(|scene| {
            scene.mount("tmpfs", ".");
            for (kind, name) in [("proc", "proc"), ("sysfs", "a b/sys"), ("tmpfs", "data")] {
                scene.mount(kind, name);
            }
            fs::write(scene.top.join("data/own"), "x").unwrap();
            fs::write(scene.top.join("version"), "x").unwrap();
            scene.bind("/proc/version", "version");
            scene.bind("/proc/self", "data");
            scene.bind("/proc/sys", "data");
            // The kernel's devices, and one of them.
            scene.mount("devtmpfs", "devices");
            fs::write(scene.top.join("null"), "x").unwrap();
            let null = scene.top.join("devices/null");
            scene.bind(null.to_str().unwrap(), "null");
            scene.cover();
            for name in ["proc", "a b/sys", "version", "data", "devices", "null"] {
                assert!(scene.is_empty(name), "{name}");
            }
            // The covers' owner and mode can't be changed.
            let path = scene.top.join("proc");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            assert!(fs::set_permissions(&path, mode).is_err());
            assert!(fs::write(path.join("new"), "").is_err());
        });
    }

    #[test]
    #[ignore = "needs root, to mount"]
    fn nothing_that_was_hidden_is_uncovered() {
        with_mounts(|scene| {
            scene.mount("tmpfs", ".");
            // proc below a tmpfs below another proc, and a file in each tmpfs.
            scene.mount("proc", "stack");
            scene.mount("tmpfs", "stack");
            fs::write(scene.top.join("stack/hidden"), "x").unwrap();
            scene.mount("proc", "stack");
            // proc below a tmpfs that is served.
            scene.mount("proc", "kept");
            scene.mount("tmpfs", "kept");
            fs::write(scene.top.join("kept/own"), "x").unwrap();
            // proc in a directory that a mount hides.
            scene.mount("proc", "outer/inner");
            scene.mount("tmpfs", "outer");
            fs::write(scene.top.join("outer/own"), "x").unwrap();
            scene.cover();
            assert!(scene.is_empty("stack"));
            assert_eq!(fs::read(scene.top.join("kept/own")).unwrap(), b"x");
            assert_eq!(fs::read(scene.top.join("outer/own")).unwrap(), b"x");
            assert!(!scene.top.join("outer/inner").exists());
        });
    }

    #[test]
    #[ignore = "needs root, to mount, and FUSE"]
    fn what_answers_somebody_else_alone_is_covered() {
        with_mounts(|scene| {
            let Ok(server) = File::options().read(true).write(true).open("/dev/fuse") else {
                panic!("skipped: there is no FUSE here");
            };
            scene.mount("tmpfs", ".");
            let point = scene.top.join("theirs");
            fs::create_dir(&point).unwrap();
            let fd = server.as_raw_fd();
            let options = format!("fd={fd},rootmode=40000,user_id=1000,group_id=1000");
            let kind = Some("fuse");
            mount(kind, &point, kind, MsFlags::empty(), Some(&*options)).unwrap();
            assert!(fs::read_dir(&point).is_err());
            scene.cover();
            assert!(scene.is_empty("theirs"));
        });
    }
}
