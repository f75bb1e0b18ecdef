//! What of the engine serves those who have a container run elsewhere, and stand for it here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use oci_spec::runtime::{Linux, Mount};

use super::id_map::{self, IdMapError};
use super::mount_options::MountOptions;
use super::mounts::clean;
use super::namespaces;
use super::procfs::Proc;
use super::safe_path::{self, Kind};
use super::sys::{self, MountAttributes};

pub use super::sys::Cloned;

/// Makes a process that is a copy of this one, as `clone3` does with these flags.
///
/// # Errors
///
/// The kernel's.
///
/// # Safety
///
/// As with `fork`: unless this process has a single thread, the child may call only what is safe
/// in a signal handler.
pub unsafe fn clone_process(flags: u64) -> io::Result<Cloned> {
    // SAFETY: the caller's promise.
    unsafe { sys::clone3(flags, None) }
}

/// A descriptor of the process that has this pid now.
///
/// # Errors
///
/// The kernel's.
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    sys::pidfd_open(pid)
}

/// Maps the ids of the new user namespace that a process of this one's is in, as the
/// configuration says.
///
/// # Errors
///
/// [`IdMapError`].
pub fn map_ids(pid: Pid, linux: &Linux) -> Result<(), IdMapError> {
    let proc = Proc::open().map_err(|error| IdMapError::Write {
        field: "uidMappings",
        file: format!("/proc/{pid}/uid_map"),
        source: io::Error::other(error),
    })?;
    id_map::write(&proc, pid, linux)
}

/// `linux.timeOffsets` as `/proc/self/timens_offsets` takes them.
pub fn time_offsets(linux: &Linux) -> String {
    namespaces::offsets(linux)
}

/// Sets the NIS domain name of this process's UTS namespace.
///
/// # Errors
///
/// The kernel's.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    sys::setdomainname(name)
}

/// Opens a path below a root that isn't trusted, with `O_PATH`.
///
/// # Errors
///
/// The kernel's.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(safe_path::open(root, path)?)
}

/// As [`open_in_root`]; makes a directory or an empty file first if there is no such thing, and
/// the directories that lead to it.
///
/// # Errors
///
/// The kernel's.
pub fn open_or_make_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    is_directory: bool,
) -> io::Result<OwnedFd> {
    let kind = match is_directory {
        true => Kind::Directory,
        false => Kind::File,
    };
    Ok(safe_path::open_or_make(root, path, kind)?)
}

/// Where a mount of a configuration is in its container: absolute, without `.` and `..`.
pub fn destination(mount: &Mount) -> PathBuf {
    clean(mount.destination())
}

/// What a mount's options forbid to do on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forbidden {
    /// On the mount itself: `MOUNT_ATTR_*`.
    pub there: u64,
    /// On it and on those below.
    pub below: u64,
    /// The options are for what is mounted there already.
    pub remount: bool,
}

impl Forbidden {
    /// What options forbid that are right.
    pub fn by(options: &[String]) -> Self {
        const ALL: u64 = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOSYMFOLLOW;
        let options = MountOptions::parse(options, false).unwrap_or_default();
        Self {
            there: options.attributes.set & ALL,
            below: options.recursive.set & ALL,
            remount: options.remount,
        }
    }
}

/// Sets attributes (`MOUNT_ATTR_*`) of the mount that `mount` is the root of, and of those below
/// it if `recursive`; has nothing propagate to it or from it if it is to be `private`.
///
/// # Errors
///
/// The kernel's.
pub fn restrict_mount(
    mount: impl AsFd,
    set: u64,
    private: bool,
    recursive: bool,
) -> io::Result<()> {
    let attributes = MountAttributes {
        set,
        clear: 0,
        propagation: if private { libc::MS_PRIVATE } else { 0 },
    };
    sys::mount_setattr(mount, attributes, recursive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_options_allow_forbids_nothing() {
        let by = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            Forbidden::by(&options)
        };
        let forbidden = by(&["rbind", "ro", "rnosuid", "noatime", "dev"]);
        assert_eq!(forbidden.there, libc::MOUNT_ATTR_RDONLY);
        assert_eq!(forbidden.below, libc::MOUNT_ATTR_NOSUID);
        assert!(!forbidden.remount && by(&["bind,remount", "ro"]).remount);
        assert_eq!(by(&["ro", "rw", "size=1k"]), Forbidden::default());
    }
}
