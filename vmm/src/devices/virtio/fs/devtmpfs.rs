//! Finds out which file system is devtmpfs, the kernel's own `/dev`. For statfs(2) it is a tmpfs
//! like any other, but there is only one, and its device number identifies it wherever it is
//! mounted.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::ptr::null;
use std::sync::OnceLock;

/// From `linux/mount.h`; libc doesn't have them.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

/// Returns whether an open file is in devtmpfs.
pub(super) fn is_of(file: impl AsFd) -> io::Result<bool> {
    let file = File::from(file.as_fd().try_clone_to_owned()?);
    Ok(device()? == Some(file.metadata()?.dev()))
}

/// Returns its device number; `None` if the kernel has no devtmpfs. This is determined once, as a
/// process may leave the file systems that it was started with.
///
/// # Errors
///
/// The kernel's error, if neither a mount of it nor the existing mounts give the number.
pub(super) fn device() -> io::Result<Option<u64>> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    if let Some(device) = DEVICE.get() {
        return Ok(*device);
    }
    let found = match mount() {
        Ok(root) => Some(root.metadata()?.dev()),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => None,
        // A process that may not mount it can see it only where it is already mounted.
        Err(_) => listed(&fs::read_to_string("/proc/thread-self/mountinfo")?),
    };
    Ok(*DEVICE.get_or_init(|| found))
}

/// Opens its root, through a mount that isn't attached anywhere.
fn mount() -> io::Result<File> {
    // SAFETY: the name is a C string, and the others are null, as the command requires. Each
    // descriptor is new, and nobody else's.
    unsafe {
        let context = descriptor(libc::syscall(
            libc::SYS_fsopen,
            c"devtmpfs".as_ptr(),
            FSOPEN_CLOEXEC,
        ))?;
        let context = context.as_raw_fd();
        let nothing = null::<libc::c_char>();
        let made = libc::syscall(
            libc::SYS_fsconfig,
            context,
            FSCONFIG_CMD_CREATE,
            nothing,
            nothing,
            0,
        );
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        let root = libc::syscall(libc::SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
        Ok(descriptor(root)?.into())
    }
}

/// # Safety
///
/// A value that isn't negative must be a new descriptor that nobody else has.
unsafe fn descriptor(returned: libc::c_long) -> io::Result<OwnedFd> {
    match returned {
        // SAFETY: the caller's promise.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(returned as libc::c_int) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Finds its number in
/// [mountinfo](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
fn listed(mounts: &str) -> Option<u64> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("devtmpfs") {
            return None;
        }
        let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
        Some(libc::makedev(major.parse().ok()?, minor.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_number_is_read() {
        let mounts = "22 27 0:20 / /proc rw - proc proc rw\n\
                      23 27 0:21 / /devtmpfs rw shared:2 - tmpfs devtmpfs rw\n\
                      24 27 0:6 / /dev rw,relatime shared:3 - devtmpfs udev rw,mode=755\n";
        assert_eq!(listed(mounts), Some(libc::makedev(0, 6)));
        assert_eq!(listed("22 27 0:20 / /proc rw - proc proc rw"), None);
        assert_eq!(listed("24 27"), None);
    }

    #[test]
    #[ignore = "needs a devtmpfs"]
    fn both_ways_find_the_same() {
        let Some(listed) = listed(&fs::read_to_string("/proc/self/mountinfo").unwrap()) else {
            panic!("skipped: devtmpfs isn't mounted here");
        };
        assert_eq!(device().unwrap(), Some(listed));
    }
}
