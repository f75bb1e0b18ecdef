//! Which of the host's file systems a guest is given, and what becomes of the others.
//!
//! [`SERVED`](nacre_vmm::devices::virtio::fs::SERVED) has those that are. In all others who may do
//! what is decided by who opens a file, and what serves the guest's requests has all of root's
//! rights: through a shared `/proc` a container could read the memory of any process of the host,
//! which a container on the host's kernel can't.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
};

use nacre_vmm::devices::virtio::fs::not_served;
use nix::mount::{MsFlags, mount};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

/// The names of those that are met, by the number of statfs(2) (`linux/magic.h`).
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

/// The type of a file system that a guest isn't given.
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

/// The type of the file system that a path is in, if it isn't served.
pub(in crate::isolation::vm) fn not_served_at(path: &Path) -> io::Result<Option<NotServed>> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    not_served_file(&file)
}

/// The type of the file system that an open file is in, if it isn't served.
pub(in crate::isolation::vm) fn not_served_file(file: impl AsFd) -> io::Result<Option<NotServed>> {
    Ok(not_served(file)?.map(NotServed))
}

/// Mounts something empty over whatever can be seen below the directory `path`, in this mount
/// namespace, that isn't served.
///
/// What lies below such a mount is hidden because somebody wanted that, so nothing is unmounted. The
/// device looks at every file itself: this is for what a guest sees there to make sense. What is
/// mounted is in the directory `covers`, whose file system must be one that is served.
pub(in crate::isolation::vm) fn cover_below(path: &Path, covers: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let top = File::open(path)?;
    for point in mounts.lines().filter_map(mount_point) {
        let Ok(below) = point.strip_prefix(path) else {
            continue;
        };
        if below.as_os_str().is_empty() {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // This finds what was mounted last there.
        let seen = match openat2(&top, below, flags, Mode::empty(), within) {
            Ok(seen) => seen,
            // It is below another mount.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => continue,
            Err(error) => return Err(error.into()),
        };
        // One that can't be asked, since its server is gone, can't be served either.
        if !matches!(not_served(&seen), Ok(None)) {
            cover(File::from(seen), covers)?;
        }
    }
    Ok(())
}

/// Mounts something empty over an open file or directory.
fn cover(seen: File, covers: &Path) -> io::Result<()> {
    fs::create_dir_all(covers)?;
    let name = if seen.metadata()?.is_dir() {
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
    move_mount(&empty, "", &seen, "", both)?;
    // Its owner and mode are the guest's to change otherwise, of all covers at once.
    let place = format!("/proc/thread-self/fd/{}", empty.as_raw_fd());
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | inert;
    let nothing = None::<&str>;
    Ok(mount(nothing, &*place, nothing, flags, nothing)?)
}

/// The mount point of a line of
/// [mountinfo](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
fn mount_point(line: &str) -> Option<PathBuf> {
    let point = line.split(' ').nth(4)?;
    let point = point
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    Some(point.into())
}

#[cfg(test)]
mod tests {
    use std::thread;

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

    #[test]
    fn mount_points_are_read() {
        let line = "36 35 0:22 / /a\\040b/proc rw,nosuid shared:1 - proc proc rw";
        assert_eq!(mount_point(line), Some("/a b/proc".into()));
        assert_eq!(mount_point("36 35 0:22"), None);
    }

    /// A directory in a mount namespace of the calling thread's, and where covers may be.
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
            match path.is_dir() {
                true => fs::read_dir(path).unwrap().count() == 0,
                false => fs::read(path).unwrap().is_empty(),
            }
        }
    }

    /// Runs `test` as root in a thread whose mounts are its own.
    fn with_mounts(test: impl FnOnce(&Scene) + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root to mount: not tested");
            return;
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
            // Nobody can give the covers away.
            let path = scene.top.join("proc");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            assert!(fs::set_permissions(&path, mode).is_err());
            assert!(fs::write(path.join("new"), "").is_err());
        });
    }

    #[test]
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
}
