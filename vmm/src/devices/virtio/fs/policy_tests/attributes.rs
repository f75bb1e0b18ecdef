//! Extended attributes that take rights, and programs' capabilities among them.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;

use super::*;

const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;

impl Guest {
    fn setxattr(&mut self, file: &str, name: &CStr, value: &[u8]) -> Result<(), i32> {
        let node = self.lookup(ROOT, file).unwrap().nodeid;
        // Size, flags, and those of SETXATTR_EXT, which was negotiated.
        let head = [value.len() as u32, 0, 0, 0].map(u32::to_le_bytes);
        let body = [head.as_flattened(), name.to_bytes_with_nul(), value];
        self.request(SETXATTR, node, &body).map(drop)
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
