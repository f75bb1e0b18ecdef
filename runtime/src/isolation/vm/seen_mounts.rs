//! Finds the mounts below a directory that can be seen in this mount namespace.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nacre_agent::container::outside::{MountLine, mount_lines};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx},
    io::Errno,
};

/// The options for a flag that a mount has, as mountinfo names them, and for one that it hasn't.
const FLAGS: [(&str, &str); 6] = [
    ("ro", "rw"),
    ("nosuid", "suid"),
    ("nodev", "dev"),
    ("noexec", "exec"),
    ("nosymfollow", "symfollow"),
    ("nodiratime", "diratime"),
];

/// A mount that isn't hidden by another one.
#[derive(Debug)]
pub(super) struct SeenMount {
    /// Where it is below the directory; empty if it is on the directory itself.
    pub(super) below: PathBuf,
    /// The root of the mount.
    pub(super) file: File,
    /// Its id (`stx_mnt_id` of statx(2)).
    pub(super) id: u64,
    /// The type of its file system.
    pub(super) file_system: OsString,
    /// Its flags, as mount options: those that it has, and those that it hasn't.
    pub(super) flags: String,
}

/// Returns the mounts that can be seen at a directory or file and below it, each before those in
/// it.
pub(super) fn at(top: &Path) -> io::Result<Vec<SeenMount>> {
    let top = fs::canonicalize(top)?;
    let mountinfo = fs::read("/proc/thread-self/mountinfo")?;
    let mut seen = Vec::new();
    for line in mount_lines(&mountinfo) {
        let Ok(below) = line.point.strip_prefix(&top) else {
            continue;
        };
        if let Some(file) = open(&line.point)?
            && mount_id(&file)? == line.id
        {
            seen.push(SeenMount {
                below: below.to_owned(),
                file,
                id: line.id,
                file_system: line.file_system.to_owned(),
                flags: flags_of(&line),
            });
        }
    }
    seen.sort_by(|one, other| one.below.cmp(&other.below));
    Ok(seen)
}

/// Opens what can be seen at a mount point, which is the last mount there, if any.
fn open(point: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat2(CWD, point, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(seen) => Ok(Some(File::from(seen))),
        // The mount point is below another mount.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the id of a file's mount, without asking its file system, which may not answer.
fn mount_id(file: &File) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(statx(file, "", flags, StatxFlags::empty())?.stx_mnt_id)
}

/// Returns a mount's flags, as mount options.
fn flags_of(line: &MountLine<'_>) -> String {
    let times = if line.has("noatime") {
        "noatime"
    } else if line.has("relatime") {
        "relatime"
    } else {
        "strictatime"
    };
    let flags = FLAGS.map(|(flag, none)| if line.has(flag) { flag } else { none });
    [&flags[..], &[times]].concat().join(",")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::{
        mount::{MntFlags, MsFlags, mount, umount2},
        sched::{CloneFlags, unshare},
    };

    use super::*;

    #[test]
    fn flags_are_those_of_the_line() {
        let flags = |mountinfo: &[u8]| -> Vec<String> {
            mount_lines(mountinfo).map(|line| flags_of(&line)).collect()
        };
        assert_eq!(
            flags(b"36 35 0:22 / /a\\040b/\xff rw,nosuid,noatime,idmapped shared:1 - x y rw"),
            ["rw,nosuid,dev,exec,symfollow,diratime,noatime"]
        );
        assert_eq!(
            flags(b"36 35 0:22 / / ro,nodiratime - x y rw"),
            ["ro,suid,dev,exec,symfollow,nodiratime,strictatime"]
        );
        assert!(flags(b"36 35 0:22 /").is_empty());
    }

    #[test]
    #[ignore = "needs root, to mount"]
    fn mounts_are_seen_unless_they_are_hidden() {
        if !nix::unistd::geteuid().is_root() {
            panic!("skipped: it needs root, to mount");
        }
        let test = || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let nothing = None::<&str>;
            let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(nothing, "/", nothing, flags, nothing).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let top = directory.path();
            for (name, flags) in [
                ("", MsFlags::empty()),
                ("hidden/below", MsFlags::empty()),
                ("hidden", MsFlags::empty()),
                ("hidden", MsFlags::MS_NOEXEC | MsFlags::MS_NODIRATIME),
                ("a b", MsFlags::MS_RDONLY | MsFlags::MS_NOATIME),
            ] {
                let point = top.join(name);
                fs::create_dir_all(&point).unwrap();
                mount(Some("x"), &point, Some("tmpfs"), flags, nothing).unwrap();
            }
            let link = top.join("link");
            std::os::unix::fs::symlink(top, &link).unwrap();
            for way in [top, &link] {
                let seen = at(way).unwrap();
                let seen: Vec<_> = seen
                    .iter()
                    .map(|mount| (mount.below.to_str().unwrap(), mount.flags.as_str()))
                    .collect();
                assert_eq!(
                    seen,
                    [
                        ("", "rw,suid,dev,exec,symfollow,diratime,relatime"),
                        ("a b", "ro,suid,dev,exec,symfollow,diratime,noatime"),
                        ("hidden", "rw,suid,dev,noexec,symfollow,nodiratime,relatime"),
                    ]
                );
            }
            umount2(top, MntFlags::MNT_DETACH).unwrap();
        };
        thread::spawn(test).join().unwrap();
    }
}
