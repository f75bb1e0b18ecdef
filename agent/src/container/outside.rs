//! Parts of the engine for programs that run a container elsewhere, and stand in for it here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use oci_spec::runtime::{Linux, Mount};

use crate::container::config::mount_options::MountOptions;
use crate::container::config::time_offsets::offsets;
use crate::container::kernel::mount_calls::{MountAttributes, mount_setattr, set_unlocked};
use crate::container::kernel::procfs::Proc;
use crate::container::kernel::safe_path::{self, FileKind, clean};
use crate::container::kernel::sys;
use crate::container::namespaces::id_map::{self, IdMapError};

pub use crate::container::config::mount_options::bound_extent;
pub use crate::container::kernel::cpu_list::ranges as cpu_ranges;
pub use crate::container::kernel::mount_calls::Extent;
pub use crate::container::kernel::mountinfo::{MountLine, mount_lines};
pub use crate::container::kernel::sys::Cloned;

/// Makes a copy of this process, as `clone3` does with these flags.
///
/// # Errors
///
/// The kernel's.
///
/// # Safety
///
/// As with `fork`: unless this process has a single thread, the child may call only what is safe in
/// a signal handler.
pub unsafe fn clone_process(flags: u64) -> io::Result<Cloned> {
    // SAFETY: the caller's promise.
    unsafe { sys::clone3(flags, None) }
}

/// Opens a pidfd of the process that has this pid now.
///
/// # Errors
///
/// The kernel's.
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    sys::pidfd_open(pid)
}

/// Maps the ids of the new user namespace that a child of this process is in, as the configuration
/// says.
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

/// Returns `linux.timeOffsets` as `/proc/self/timens_offsets` takes them.
pub fn time_offsets(linux: &Linux) -> String {
    offsets(linux)
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

/// As [`open_in_root`], but first makes a directory or an empty file if the path doesn't exist, and
/// its parent directories.
///
/// # Errors
///
/// The kernel's.
pub fn open_or_make_in_root(
    root: BorrowedFd<'_>,
    path: &Path,
    is_directory: bool,
) -> io::Result<OwnedFd> {
    let kind = if is_directory {
        FileKind::Directory
    } else {
        FileKind::File
    };
    Ok(safe_path::open_or_make(root, path, kind)?)
}

/// Returns the path of a configuration's mount in its container: absolute, without `.` and `..`.
pub fn destination(mount: &Mount) -> PathBuf {
    clean(mount.destination())
}

/// What a mount's options forbid on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forbidden {
    /// On the mount itself: `MOUNT_ATTR_*`.
    pub there: u64,
    /// On it and on the mounts below.
    pub below: u64,
    /// Whether the options are for an existing mount.
    pub remount: bool,
}

impl Forbidden {
    /// Returns what valid options forbid.
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

/// Returns those of a mount's options that are its file system's: a key, and a value where there is
/// one.
pub fn parameters(options: &[String]) -> Vec<(String, Option<String>)> {
    let options = MountOptions::parse(options, false).unwrap_or_default();
    options.parameters
}

/// Gives the mount whose root is `mount`, and with recursive options those below it, the flags that
/// the options of a bind mount ask for, as the engine does. Propagation stays as it is.
///
/// # Errors
///
/// `InvalidInput` if they aren't options of a bind mount, or the kernel's.
pub fn set_flags(mount: &OwnedFd, options: &[String]) -> io::Result<()> {
    let options = MountOptions::parse(options, true)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    for (attributes, extent) in [
        (options.recursive, Extent::Tree),
        (options.attributes, Extent::Mount),
    ] {
        let flags = MountAttributes {
            propagation: 0,
            ..attributes
        };
        if flags != MountAttributes::default() {
            set_unlocked(mount, flags, extent)?;
        }
    }
    Ok(())
}

/// Whether mounts and unmounts propagate to a mount, and from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// As before.
    Keep,
    /// No more.
    Leave,
}

/// Sets attributes (`MOUNT_ATTR_*`) of the mount whose root is `mount`, or of its tree.
///
/// # Errors
///
/// The kernel's.
pub fn restrict_mount(mount: impl AsFd, set: u64, peers: Peers, extent: Extent) -> io::Result<()> {
    let attributes = MountAttributes {
        set,
        clear: 0,
        propagation: match peers {
            Peers::Keep => 0,
            Peers::Leave => libc::MS_PRIVATE,
        },
    };
    mount_setattr(mount, attributes, extent)
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
