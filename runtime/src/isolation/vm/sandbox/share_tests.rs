//! Tests of the share, assembled on this machine in mount namespaces of the tests' own.

use std::{os::unix::fs::symlink, thread};

use nix::mount::{MsFlags, mount};

use super::*;
use crate::isolation::vm::sandbox::home::Home;

fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

/// Runs `test` as root in a thread whose mounts are its own from `assemble` on.
fn with_share(shared: Shared, test: impl FnOnce(&Share) + Send + 'static) {
    with_share_of(|| (), shared, test);
}

/// As [`with_share`], where `mount` has mounted something.
fn with_share_of(
    mount: impl FnOnce() + Send + 'static,
    shared: Shared,
    test: impl FnOnce(&Share) + Send + 'static,
) {
    if !nix::unistd::geteuid().is_root() {
        panic!("skipped: it needs root, to mount");
    }
    let before = mounts();
    let point = tempfile::tempdir().unwrap();
    let path = point.path().to_owned();
    let thread = thread::spawn(move || {
        let home = Home::make(path.clone()).unwrap();
        mount();
        let share = Share::assemble(home.share(), &shared).unwrap();
        test(&share);
        home.unmount().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    });
    thread.join().unwrap();
    assert_eq!(mounts(), before);
    point.close().unwrap();
}

fn host() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    for name in ["root", "data"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    fs::write(directory.path().join("file"), "a file").unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

fn source(path: PathBuf, read_only: bool) -> Source {
    let flags = if read_only { "ro" } else { "rw" };
    Source {
        is_directory: path.is_dir(),
        origin: Origin::Path(path),
        recursive: true,
        options: vec![flags.to_owned()],
        ids: None,
    }
}

#[test]
fn a_file_system_that_opens_others_files_is_not_kept_to_the_share() {
    assert_eq!(reach_of("ecryptfs".as_ref()), Reach::Outside);
    for kind in ["ext4", "overlay", "fuse.sshfs"] {
        assert_eq!(reach_of(kind.as_ref()), Reach::Inside, "{kind}");
    }
}

#[test]
#[ignore = "needs root, to mount"]
fn sources_are_where_the_guest_looks_for_them() {
    let (_directory, host) = host();
    let shared = Shared {
        root: host.join("root"),
        root_is_read_only: false,
        root_is_base: false,
        binds: vec![
            source(host.join("data"), false),
            source(host.join("file"), true),
        ],
        hooks: vec![source(host.join("file"), true)],
    };
    with_share(shared, move |share| {
        fs::write(share.root().join("new"), "").unwrap();
        let path = share.sources().unwrap();
        fs::write(path.join("mounts/0/new"), "").unwrap();
        assert!(host.join("root/new").exists() && host.join("data/new").exists());
        assert_eq!(fs::read_to_string(path.join("mounts/1")).unwrap(), "a file");
        assert!(fs::write(path.join("mounts/1"), "").is_err());
        assert_eq!(fs::read_to_string(path.join("hooks/0")).unwrap(), "a file");
        assert!(fs::write(path.join("new"), "").is_err());
        assert!(fs::write(path.join("mounts/new"), "").is_err());
        assert!(fs::write(share.root().join("../new"), "").is_err());
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn nothing_stays_mounted_if_a_source_cannot_be_had() {
    if !nix::unistd::geteuid().is_root() {
        panic!("skipped: it needs root, to mount");
    }
    let (_directory, host) = host();
    symlink("/proc/self/status", host.join("link")).unwrap();
    symlink("data", host.join("data-link")).unwrap();
    // The others have changed since they were looked at.
    for (name, is_directory) in [
        ("gone", false),
        ("link", false),
        ("data-link", false),
        ("file", true),
    ] {
        let point = host.join("point");
        fs::create_dir(&point).unwrap();
        let shared = Shared {
            root: host.join("root"),
            root_is_read_only: false,
            root_is_base: false,
            binds: vec![Source {
                is_directory,
                ..source(host.join(name), false)
            }],
            hooks: vec![],
        };
        let test = move || {
            let home = Home::make(point.clone()).unwrap();
            let error = Share::assemble(home.share(), &shared).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            home.unmount().unwrap();
            // A mount point couldn't be removed.
            fs::remove_dir(&point).unwrap();
        };
        thread::spawn(test).join().unwrap();
    }
}

#[test]
#[ignore = "needs root, to mount"]
fn each_mount_of_a_tree_has_its_own_flags() {
    let (_directory, host) = host();
    let bind = |options: &[&str]| Source {
        options: options.iter().map(|option| (*option).into()).collect(),
        ..source(host.join("data"), false)
    };
    let shared = Shared {
        root: host.join("root"),
        root_is_read_only: true,
        root_is_base: false,
        binds: vec![bind(&["ro"]), bind(&["rro", "noatime"]), bind(&["rw"])],
        hooks: vec![],
    };
    let mounted = move || {
        for (name, flags) in [
            ("root/inner", MsFlags::empty()),
            ("data", MsFlags::empty()),
            ("data/inner", MsFlags::MS_NOEXEC),
        ] {
            let point = host.join(name);
            fs::create_dir_all(&point).unwrap();
            let kind = Some("tmpfs");
            mount(kind, &point, kind, flags, None::<&str>).unwrap();
        }
    };
    with_share_of(mounted, shared, |share| {
        share.seal_root().unwrap();
        let list = |top, below: &str, flags: &str| {
            let flags = flags.replace('+', "suid,dev,exec,symfollow,diratime");
            let flags = flags.replace('-', "suid,dev,noexec,symfollow,diratime");
            (format!("{SHARE}/mounts/{top}/{below}"), flags)
        };
        let listed = share.mounts()[2..].iter().map(|mount| {
            let path = mount.top.join(&mount.below);
            (path.display().to_string(), mount.flags.clone())
        });
        let expected = [
            list(0, "", "ro,+,relatime"),
            list(0, "inner", "rw,-,relatime"),
            list(1, "", "ro,+,noatime"),
            list(1, "inner", "ro,-,relatime"),
            list(2, "", "rw,+,relatime"),
            list(2, "inner", "rw,-,relatime"),
        ];
        assert_eq!(listed.collect::<Vec<_>>(), expected);
        // And on this side they have the same flags.
        for mount in share.mounts() {
            let place = match mount.top.strip_prefix(SHARE) {
                Ok(source) => share.path.join(SOURCES).join(source),
                Err(_) => share.root(),
            };
            let written = fs::write(place.join(&mount.below).join("new"), "");
            let is_sealed = mount.top == Path::new(ROOT) && mount.below.is_empty();
            let is_read_only = is_sealed || mount.flags.starts_with("ro");
            assert_eq!(written.is_err(), is_read_only, "{mount:?}");
        }
    });
}

/// The file server can't see them: on this side every mount is inert.
#[test]
fn each_mounts_own_flags_are_kept_for_the_file_server() {
    let (_directory, host) = host();
    let mut restricted = source(host.join("data"), false);
    restricted.options = ["nosuid", "nodev"].map(str::to_owned).to_vec();
    let shared = Shared {
        root: host.join("root"),
        root_is_read_only: false,
        root_is_base: false,
        binds: vec![restricted, source(host.join("data"), false)],
        hooks: vec![],
    };
    with_share(shared, |share| {
        let flags = |place: PathBuf| {
            let mount = &seen_mounts::at(&place).unwrap()[0];
            let flags = share.policy().unwrap().mount(Some(mount.id));
            (flags.nosuid, flags.nodev)
        };
        let (own, _) = flags(share.root());
        assert!(!own);
        let sources = share.sources().unwrap();
        assert_eq!(flags(sources.join("mounts/0")), (true, true));
        assert!(!flags(sources.join("mounts/1")).0);
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn a_read_only_root_is_so_once_the_container_is_made() {
    let (_directory, host) = host();
    let shared = Shared {
        root: host.join("root"),
        root_is_read_only: true,
        root_is_base: false,
        binds: vec![],
        hooks: vec![],
    };
    with_share(shared, move |share| {
        assert_eq!(share.sources(), None);
        let root = share.root();
        fs::create_dir(root.join("mount-point")).unwrap();
        share.seal_root().unwrap();
        assert!(fs::write(root.join("new"), "").is_err());
        // The host can still write to it.
        fs::write(host.join("root/new"), "").unwrap();
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn a_base_is_read_only_from_the_start_and_has_nothing_mounted_in_it() {
    let (_directory, host) = host();
    fs::create_dir(host.join("root/inner")).unwrap();
    let shared = Shared {
        root: host.join("root"),
        root_is_read_only: false,
        root_is_base: true,
        binds: vec![],
        hooks: vec![],
    };
    let inner = host.join("root/inner");
    with_share(shared, move |share| {
        let root = share.root();
        assert!(fs::write(root.join("new"), "").is_err());
        fs::write(inner.join("new"), "").unwrap();
        assert!(root.join("inner/new").exists());
    });
}
