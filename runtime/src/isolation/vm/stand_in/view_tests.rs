//! Tests of what is shown of a container, against a mount namespace of the test's own.

use std::{fs::File, thread};

use nix::{
    sched::{CloneFlags, unshare},
    sys::statvfs::FsFlags,
};
use serde_json::json;

use crate::isolation::vm::guest_spec::{Origin, Source};

use super::*;

/// Runs a test with a directory of its own, in a mount namespace of its own.
fn with_places(test: impl FnOnce(&Path) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        panic!("skipped: it needs root, to mount");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let nothing = None::<&str>;
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(nothing, "/", nothing, flags, nothing).unwrap();
        for name in ["root/etc", "root/tmp", "volume", "place", "shown"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        for name in ["root/etc/secret", "root/tmp/below", "volume/file"] {
            fs::write(path.join(name), "text").unwrap();
        }
        test(&path);
    });
    thread.join().unwrap();
}

fn tree(path: PathBuf) -> OwnedFd {
    clone(&open_path(&path).unwrap()).unwrap()
}

/// Makes the view of a configuration with these mounts, at `shown`.
fn show(place: &Path, mounts: serde_json::Value, is_base: bool) -> PathBuf {
    let spec = json!({
        "ociVersion": "1.0.2", "root": { "path": "root" }, "mounts": mounts,
        "linux": { "maskedPaths": ["/etc/secret", "/none"], "readonlyPaths": ["/etc"] },
    });
    let spec: Spec = serde_json::from_value(spec).unwrap();
    let source = Source {
        origin: Origin::Path(place.join("volume")),
        is_directory: true,
        recursive: true,
        options: Vec::new(),
        ids: None,
    };
    let shared = Shared {
        root: place.join("root"),
        root_is_read_only: false,
        root_is_base: is_base,
        binds: vec![source],
        hooks: vec![],
    };
    let trees = Trees {
        root: tree(place.join("root")),
        binds: vec![tree(place.join("volume"))],
    };
    let view = View::new(&spec, &shared).make(&place.join("place"), trees);
    let shown = place.join("shown");
    attach(view.unwrap(), File::open(&shown).unwrap()).unwrap();
    assert_eq!(fs::read_dir(place.join("place")).unwrap().count(), 0);
    shown
}

fn is_out_of_reach(path: &Path) -> bool {
    let error = fs::metadata(path).err();
    error.and_then(|error| error.raw_os_error()) == Some(libc::ENOTCONN)
}

#[test]
#[ignore = "needs root, to mount"]
fn mounts_are_where_the_container_has_them_and_covered_where_the_guest_does() {
    with_places(|place| {
        let mounts = json!([
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/tmp/inner", "type": "bind", "source": "/run/nacre/share/mounts/0",
              "options": ["rbind", "noexec"] },
            { "destination": "/null", "type": "bind", "source": "/dev/null" },
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/scratch", "type": "tmpfs", "source": "tmpfs" },
        ]);
        let shown = show(place, mounts, false);
        assert_eq!(
            fs::read_to_string(shown.join("tmp/inner/file")).unwrap(),
            "text"
        );
        fs::write(shown.join("tmp/inner/new"), "").unwrap();
        assert!(place.join("volume/new").exists());
        assert!(!shown.join("tmp/below").exists());
        assert!(is_out_of_reach(&shown.join("tmp").join(UNREACHABLE)));
        assert!(is_out_of_reach(&shown.join("scratch")));
        assert!(fs::read_dir(shown.join("scratch")).is_err());
        for sealed in [
            "tmp/new",
            "scratch/new",
            "proc/new",
            "etc/new",
            "null",
            "etc/secret",
        ] {
            assert!(fs::write(shown.join(sealed), "").is_err(), "{sealed}");
        }
        assert_eq!(fs::read_to_string(shown.join("etc/secret")).unwrap(), "");
        fs::write(shown.join("new"), "").unwrap();
        let inner = nix::sys::statvfs::statvfs(&shown.join("tmp/inner")).unwrap();
        let flags = FsFlags::ST_NOEXEC | FsFlags::ST_NODEV | FsFlags::ST_NOSUID;
        assert!(inner.flags().contains(flags));
        // Nothing of it is on the host except mount points.
        assert!(!place.join("root/tmp/inner").exists() && place.join("root/null").exists());
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn a_root_in_the_guest_is_empty() {
    with_places(|place| {
        let mounts = json!([{
            "destination": "/v", "type": "bind", "source": "/run/nacre/share/mounts/0",
            "options": ["rbind", "ro"],
        }]);
        let shown = show(place, mounts, true);
        assert!(!shown.join("etc").exists() && shown.join("v/file").exists());
        assert!(is_out_of_reach(&shown.join(UNREACHABLE)));
        assert!(fs::write(shown.join("new"), "").is_err());
        assert!(!place.join("root/v").exists());
    });
}

#[test]
#[ignore = "needs root, to mount"]
fn a_links_target_is_in_the_root() {
    with_places(|place| {
        std::os::unix::fs::symlink(place, place.join("root/away")).unwrap();
        let mounts = json!([
            { "destination": "/away/made", "type": "tmpfs", "source": "tmpfs" },
        ]);
        let shown = show(place, mounts, false);
        assert!(!place.join("made").exists());
        let inside = shown.join(place.strip_prefix("/").unwrap()).join("made");
        assert!(is_out_of_reach(&inside) && fs::write(inside.join("new"), "").is_err());
    });
}
