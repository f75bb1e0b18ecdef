//! This process's open files, as `/proc/self/fd` shows them: opened once, as a process may leave
//! the file systems that it was started with.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;

/// `linux/mount.h`; libc doesn't have it.
const OPEN_TREE_CLONE: libc::c_int = 1;

const PATH: &CStr = c"/proc/self/fd";

/// The directory. Nothing else of `/proc` can be reached by it.
pub(super) fn directory() -> io::Result<&'static File> {
    static DIRECTORY: OnceLock<File> = OnceLock::new();
    if let Some(directory) = DIRECTORY.get() {
        return Ok(directory);
    }
    let opened = open()?;
    Ok(DIRECTORY.get_or_init(|| opened))
}

/// By a mount of its own that is attached nowhere. An ordinary user can't have that, nor a machine
/// with files of the host's.
fn open() -> io::Result<File> {
    // SAFETY: the path is a C string. A descriptor is new, and nobody else's.
    let opened = unsafe {
        let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC;
        match libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, PATH.as_ptr(), flags) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(File::from_raw_fd(fd as libc::c_int)),
        }
    };
    match opened {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            File::open(PATH.to_str().unwrap_or_default())
        }
        other => other,
    }
}

/// Whether an open file is what is called so there.
pub(super) fn is(file: &File, name: &CStr) -> io::Result<bool> {
    let path = CString::new(file.as_raw_fd().to_string())?;
    let directory = directory()?.as_raw_fd();
    // One byte more tells a longer name.
    let mut found = vec![0; name.count_bytes() + 1];
    // SAFETY: the path is a C string; the buffer is of the size that is given.
    let length = unsafe {
        let buffer = found.as_mut_ptr().cast();
        libc::readlinkat(directory, path.as_ptr(), buffer, found.len())
    };
    match usize::try_from(length) {
        Ok(length) => Ok(found.get(..length) == Some(name.to_bytes())),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_name() {
        let null = File::open("/dev/null").unwrap();
        assert!(is(&null, c"/dev/null").unwrap());
        for other in [c"/dev/nul", c"/dev/null2", c"anon_inode:[eventfd]"] {
            assert!(!is(&null, other).unwrap());
        }
    }
}
