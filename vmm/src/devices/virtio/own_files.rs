//! Gives access to this process's open files, as `/proc/self/fd` shows them: opened once, as a
//! process may leave the file systems that it was started with.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process;
use std::sync::{Mutex, PoisonError};

/// From `linux/mount.h`; libc doesn't have it.
const OPEN_TREE_CLONE: libc::c_int = 1;

const PATH: &CStr = c"/proc/self/fd";

/// Returns the directory. Nothing else in `/proc` can be reached through it.
///
/// # Errors
///
/// The kernel's; or if it was the process that this one was forked from that opened it, since it
/// shows that one's files.
pub(super) fn directory() -> io::Result<&'static File> {
    static DIRECTORY: Mutex<Option<(u32, &'static File)>> = Mutex::new(None);
    let mut known = DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner);
    match *known {
        Some((owner, directory)) if owner == process::id() => Ok(directory),
        _ => {
            let opened: &'static File = Box::leak(Box::new(open()?));
            *known = Some((process::id(), opened));
            Ok(opened)
        }
    }
}

/// Opens it through a mount of its own that isn't attached anywhere. An ordinary user can't have
/// that, but neither can such a user have a machine with files of the host's.
fn open() -> io::Result<File> {
    // SAFETY: the path is a C string. The descriptor is new, and nobody else's.
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

/// Returns whether an open file is what is shown there under `name`.
pub(super) fn is(file: &File, name: &CStr) -> io::Result<bool> {
    let path = CString::new(file.as_raw_fd().to_string())?;
    let directory = directory()?.as_raw_fd();
    // One more byte reveals a longer name.
    let mut found = vec![0; name.count_bytes() + 1];
    // SAFETY: the path is a C string; the buffer has the size given.
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
