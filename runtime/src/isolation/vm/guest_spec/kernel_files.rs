//! File systems that show the kernel itself: `/proc`, `/sys` and their like.
//!
//! They aren't shared with a guest. Who may do what with their files is decided by who opens
//! them, and what serves the guest's requests has all of root's rights: through a shared `/proc`
//! a container could read the memory of any process of the host, which a container on the
//! host's kernel can't.

use std::{fs, io, os::fd::AsFd, path::Path, path::PathBuf};

use nix::{
    mount::{MntFlags, umount2},
    sys::statfs::{FsType, fstatfs, statfs},
};

/// The types, as mountinfo names them, and how `statfs` tells them (`linux/magic.h`).
const KINDS: [(&str, i64); 15] = [
    ("proc", libc::PROC_SUPER_MAGIC),
    ("sysfs", 0x6265_6572),
    ("cgroup", libc::CGROUP_SUPER_MAGIC),
    ("cgroup2", libc::CGROUP2_SUPER_MAGIC),
    ("debugfs", libc::DEBUGFS_MAGIC),
    ("tracefs", libc::TRACEFS_MAGIC),
    ("securityfs", libc::SECURITYFS_MAGIC),
    ("selinuxfs", libc::SELINUX_MAGIC),
    ("bpf", libc::BPF_FS_MAGIC),
    ("configfs", 0x6265_6570),
    ("pstore", 0x6165_676c),
    ("efivarfs", 0xde5e_81e4),
    ("binfmt_misc", 0x4249_4e4d),
    ("fusectl", 0x6573_5543),
    ("nsfs", libc::NSFS_MAGIC),
];

/// Whether a path is in one of them.
pub(in crate::isolation::vm) fn are_at(path: &Path) -> io::Result<bool> {
    Ok(is_one(statfs(path)?.filesystem_type()))
}

/// Whether an open file is in one of them.
pub(in crate::isolation::vm) fn have(file: impl AsFd) -> io::Result<bool> {
    Ok(is_one(fstatfs(file)?.filesystem_type()))
}

fn is_one(kind: FsType) -> bool {
    KINDS.iter().any(|(_, magic)| *magic == kind.0)
}

/// Unmounts those below `path`, in this mount namespace.
pub(in crate::isolation::vm) fn unmount_below(path: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    // What was mounted last lies on top.
    for mount in mounts.lines().rev() {
        if let Some((point, kind)) = parse(mount)
            && KINDS.iter().any(|(name, _)| *name == kind)
            && point.starts_with(path)
        {
            match umount2(&point, MntFlags::MNT_DETACH) {
                // It went with the one that it was on.
                Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Mount point and type of a line of
/// [mountinfo](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html).
fn parse(line: &str) -> Option<(PathBuf, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let point = mount.split(' ').nth(4)?;
    let point = point
        .replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\");
    Some((point.into(), file_system.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_known_by_path_and_in_mountinfo() {
        for (path, expected) in [
            ("/proc/self", true),
            ("/sys", true),
            ("/", false),
            ("/tmp", false),
        ] {
            assert_eq!(are_at(Path::new(path)).unwrap(), expected, "{path}");
        }
        let line = "36 35 0:22 / /a\\040b/proc rw,nosuid shared:1 - proc proc rw";
        assert_eq!(parse(line), Some(("/a b/proc".into(), "proc")));
        assert_eq!(parse("36 35 0:22"), None);
    }
}
