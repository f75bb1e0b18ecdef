//! Finds what a mount forbids and a user namespace below may not undo
//! ([mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html)).

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use libc::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::container::kernel::mount_calls::Extent;
use crate::container::kernel::mountinfo::mount_lines;

/// The options that the kernel locks, and their attributes.
const LOCKED: [(&str, u64); 4] = [
    ("ro", MOUNT_ATTR_RDONLY),
    ("nosuid", MOUNT_ATTR_NOSUID),
    ("nodev", MOUNT_ATTR_NODEV),
    ("noexec", MOUNT_ATTR_NOEXEC),
];

/// What is forbidden on mounts: `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Locked {
    /// On the mount itself.
    pub(super) here: u64,
    /// On it or on a mount below it.
    pub(super) anywhere: u64,
}

/// Returns what the mount at `source` forbids, and with [`Extent::Tree`] those below it.
pub(super) fn locked_attributes(source: &Path, extent: Extent) -> io::Result<Locked> {
    let opened = open(source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let id = statx(&opened, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
    let path = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?;
    let mounts = fs::read("/proc/self/mountinfo")?;
    let (here, below) = forbidden(&mounts, id, &path);
    let anywhere = match extent {
        Extent::Mount => here,
        Extent::Tree => here | below,
    };
    Ok(Locked { here, anywhere })
}

/// Returns what the mount of that id forbids, and what those below `path` do.
fn forbidden(mountinfo: &[u8], id: u64, path: &Path) -> (u64, u64) {
    let (mut own, mut all_below) = (0, 0);
    for line in mount_lines(mountinfo) {
        let flags = LOCKED.iter().filter(|(name, _)| line.has(name));
        let flags = flags.fold(0, |flags, (_, bit)| flags | bit);
        if line.id == id {
            own = flags;
        } else if line.point != path && line.point.starts_with(path) {
            all_below |= flags;
        }
    }
    (own, all_below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mounts_forbid_is_read_of_their_lines() {
        let mountinfo = b"21 1 8:1 / / rw,relatime - ext4 /dev/sda1 ro\n\
            22 21 0:5 / /a\\040b ro,nosuid,relatime shared:12 - tmpfs t rw,nodev\n\
            23 22 0:6 / /a\\040b/c rw,noexec - tmpfs t rw\n\
            24 21 0:7 / /a\\040bc rw,nodev - tmpfs t rw\n\
            broken\n";
        let own = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
        let of = |id, path: &str| forbidden(mountinfo, id, Path::new(path));
        assert_eq!(of(22, "/a b"), (own, MOUNT_ATTR_NOEXEC));
        assert_eq!(of(22, "/a b/file"), (own, 0));
        assert_eq!(of(21, "/x"), (0, 0));
    }
}
