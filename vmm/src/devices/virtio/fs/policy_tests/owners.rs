//! Who owns what a guest makes: the container's own users and groups.

use super::super::tests::{CREATE, OPENDIR, SYMLINK};
use super::*;

const FATTR_UID: u32 = 2;
const FATTR_GID: u32 = 4;

impl Guest {
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
