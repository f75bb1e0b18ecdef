//! Tests what a guest sees of file systems that it isn't served, whatever it requests.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use virtiofsd::fuse::{CreateIn, EntryOut, MkdirIn};
use vm_memory::ByteValued;

use super::tests::{CREATE, Guest, MKDIR, RENAME, ROOT, SYMLINK, UNLINK};
use super::*;

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub(super) fn mount(source: &str, target: &Path, kind: Option<&CStr>, flags: libc::c_ulong) {
    let source = CString::new(source).unwrap();
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: strings that outlive the call, or a null pointer where that is allowed.
    let outcome = unsafe {
        libc::mount(
            source.as_ptr(),
            text(target).as_ptr(),
            kind,
            flags,
            std::ptr::null(),
        )
    };
    assert_eq!(outcome, 0, "{source:?}: {}", io::Error::last_os_error());
}

fn unmount(target: &Path) {
    // SAFETY: a string that outlives the call.
    let outcome = unsafe { libc::umount2(text(target).as_ptr(), libc::MNT_DETACH) };
    assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

/// Runs `test` as root in a thread with its own mounts.
pub(super) fn with_mounts(test: impl FnOnce(&mut Guest) + Send + 'static) {
    // SAFETY: it has no arguments.
    if unsafe { libc::geteuid() } != 0 {
        panic!("skipped: it needs root, to mount");
    }
    let thread = thread::spawn(move || {
        // SAFETY: only this thread gets different mounts.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        mount("", Path::new("/"), None, libc::MS_PRIVATE | libc::MS_REC);
        test(&mut Guest::new());
    });
    thread.join().unwrap();
}

#[test]
#[ignore = "needs root, to mount"]
fn what_is_mounted_later_is_looked_at() {
    with_mounts(|guest| {
        for name in ["proc", "data"] {
            fs::create_dir(guest.path(name)).unwrap();
        }
        fs::write(guest.path("file"), "own").unwrap();
        for name in ["proc", "data", "file"] {
            guest.lookup(ROOT, name).unwrap();
        }
        mount("proc", &guest.path("proc"), Some(c"proc"), 0);
        mount("tmpfs", &guest.path("data"), Some(c"tmpfs"), 0);
        mount("/proc/version", &guest.path("file"), None, libc::MS_BIND);
        fs::write(guest.path("data/own"), "").unwrap();
        for _ in 0..2 {
            assert_eq!(guest.lookup(ROOT, "proc").unwrap_err(), libc::ENOENT);
            assert_eq!(guest.lookup(ROOT, "file").unwrap_err(), libc::ENOENT);
        }
        let data = guest.lookup(ROOT, "data").unwrap().nodeid;
        guest.lookup(data, "own").unwrap();

        // Nor can a refused inode be guessed: the next numbers belong to others.
        for node in data..data + 10 {
            let found = guest.lookup(node, "sys");
            assert!(matches!(
                found,
                Err(libc::EBADF | libc::ENOENT | libc::ENOTDIR)
            ));
        }
        for name in ["proc", "file", "data"] {
            unmount(&guest.path(name));
            guest.lookup(ROOT, name).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn what_is_uncovered_is_looked_at() {
    with_mounts(|guest| {
        fs::create_dir(guest.path("place")).unwrap();
        mount("proc", &guest.path("place"), Some(c"proc"), 0);
        mount("tmpfs", &guest.path("place"), Some(c"tmpfs"), 0);
        fs::create_dir(guest.path("place/inner")).unwrap();
        let place = guest.lookup(ROOT, "place").unwrap().nodeid;
        let inner = guest.lookup(place, "inner").unwrap().nodeid;
        unmount(&guest.path("place"));
        assert_eq!(guest.lookup(ROOT, "place").unwrap_err(), libc::ENOENT);
        // Only the tmpfs is still known, and no name leads from it into the other one.
        for (node, name) in [(place, "sys"), (inner, "sys"), (place, "../place")] {
            assert!(guest.lookup(node, name).is_err(), "{name}");
        }
        unmount(&guest.path("place"));
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn no_way_up_leads_into_another_file_system() {
    with_mounts(|guest| {
        // A served file system, mounted in one that isn't.
        fs::create_dir(guest.path("cgroup")).unwrap();
        mount("proc", &guest.path("cgroup"), Some(c"proc"), 0);
        let inside = guest.path("cgroup/bus");
        mount("tmpfs", &inside, Some(c"tmpfs"), 0);
        fs::create_dir(inside.join("deep")).unwrap();
        for name in ["cgroup", "cgroup/bus", "cgroup/bus/deep"] {
            assert!(guest.lookup(ROOT, name).is_err(), "{name}");
        }
        // The same one, seen at another place.
        fs::create_dir(guest.path("other")).unwrap();
        let source = inside.to_str().unwrap();
        mount(source, &guest.path("other"), None, libc::MS_BIND);
        let other = guest.lookup(ROOT, "other").unwrap().nodeid;
        let up = guest.lookup(other, "..").unwrap();
        assert!([ROOT, other].contains(&up.nodeid), "{}", up.nodeid);
        for path in [&guest.path("other"), &inside, &guest.path("cgroup")] {
            unmount(path);
        }
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn no_path_is_a_name() {
    with_mounts(|guest| {
        fs::create_dir(guest.path("hidden")).unwrap();
        mount("tmpfs", &guest.path("hidden"), Some(c"tmpfs"), 0);
        fs::create_dir(guest.path("hidden/own")).unwrap();
        let mkdir = MkdirIn {
            mode: 0o755,
            umask: 0,
        };
        let create = CreateIn {
            flags: (libc::O_RDWR | libc::O_CREAT) as u32,
            mode: libc::S_IFREG | 0o644,
            ..Default::default()
        };
        let new_parent = ROOT.to_le_bytes();
        for (opcode, body) in [
            (1, &[b"hidden/own\0".as_slice()][..]),
            (MKDIR, &[mkdir.as_slice(), b"hidden/new\0"]),
            (CREATE, &[create.as_slice(), b"hidden/new\0"]),
            (SYMLINK, &[b"hidden/new\0target\0"]),
            (UNLINK, &[b"hidden/own\0"]),
            (11, &[b"hidden/own\0"]),
            (RENAME, &[&new_parent, b"hidden/own\0moved\0"]),
            (RENAME, &[&new_parent, b"hidden\0hidden/own/moved\0"]),
        ] {
            assert_eq!(guest.request(opcode, ROOT, body).unwrap_err(), libc::EINVAL);
        }
        let names = fs::read_dir(guest.path("hidden")).unwrap();
        assert_eq!(names.count(), 1);
        unmount(&guest.path("hidden"));
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn a_file_that_is_there_is_opened_only_if_it_is_served() {
    with_mounts(|guest| {
        // If it were truncated, its size would show that.
        fs::write(guest.path("file"), "own").unwrap();
        mount("/proc/version", &guest.path("file"), None, libc::MS_BIND);
        let create = CreateIn {
            flags: (libc::O_RDONLY | libc::O_CREAT) as u32,
            mode: libc::S_IFREG | 0o644,
            ..Default::default()
        };
        let body = [create.as_slice(), b"file\0"];
        assert_eq!(
            guest.request(CREATE, ROOT, &body).unwrap_err(),
            libc::ENOENT
        );
        unmount(&guest.path("file"));
        let answer = guest.request(CREATE, ROOT, &body).unwrap();
        assert_eq!(EntryOut::from_slice(&answer[..128]).unwrap().attr.size, 3);
        let exclusive = CreateIn {
            flags: create.flags | libc::O_EXCL as u32,
            ..create
        };
        let body = [exclusive.as_slice(), b"file\0"];
        assert_eq!(
            guest.request(CREATE, ROOT, &body).unwrap_err(),
            libc::EEXIST
        );
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn the_kernels_devices_are_told_from_a_tmpfs() {
    with_mounts(|guest| {
        for (kind, name) in [(c"tmpfs", "data"), (c"devtmpfs", "devices")] {
            fs::create_dir(guest.path(name)).unwrap();
            mount("own", &guest.path(name), Some(kind), 0);
        }
        guest.lookup(ROOT, "data").unwrap();
        for _ in 0..2 {
            assert_eq!(guest.lookup(ROOT, "devices").unwrap_err(), libc::ENOENT);
        }
        let refused = Fs::new("x", &guest.path("devices")).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
        for name in ["data", "devices"] {
            unmount(&guest.path(name));
        }
    });
}

#[test]
fn no_device_is_made_of_what_is_not_served() {
    for path in ["/proc", "/sys", "/proc/self/ns"] {
        let refused = Fs::new("x", Path::new(path)).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported, "{path}");
    }
    assert!(
        not_served(File::open("/proc/version").unwrap())
            .unwrap()
            .is_some()
    );
    assert_eq!(not_served(File::open("/").unwrap()).unwrap(), None);
}
