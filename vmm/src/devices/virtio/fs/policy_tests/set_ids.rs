//! Set-id bits, which a program keeps only where they give nobody else's rights.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;

use super::*;

const FATTR_FH: u32 = 1 << 6;

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
