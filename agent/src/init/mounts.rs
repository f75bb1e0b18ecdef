//! Makes the guest's own mounts, which containers don't see.

use std::fs::{DirBuilder, create_dir, write};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nacre_agent::container::Step;
use nacre_agent::container::outside::set_flags;
use nacre_agent::protocol::{ROOT, ROOT_TAG, SHARE, SHARE_TAG, SharedMount};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat2, statx,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::error::InitError;

/// Where the root is assembled, in the initramfs.
const SYSROOT: &str = "/sysroot";

/// Makes a root out of a tmpfs and mounts on it what the agent and the engine need.
///
/// The initramfs can't stay the root: it is the kernel's first mount, and `pivot_root`, with which
/// the engine enters a container's root, works only if the root is mounted on something ([kernel
/// document](https://docs.kernel.org/filesystems/ramfs-rootfs-initramfs.html)).
pub(super) fn assemble() -> Result<(), InitError> {
    create_dir(SYSROOT).step(|| "make /sysroot")?;
    let none = MsFlags::empty();
    mount_at("tmpfs", "tmpfs", SYSROOT, none, Some("mode=755"))?;
    chdir(SYSROOT).step(|| "enter /sysroot")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .step(|| "move /sysroot to /")?;
    chroot(".").step(|| "make /sysroot the root")?;

    for directory in ["/dev", "/proc", "/sys", "/tmp", ROOT, SHARE] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .step(|| "make the directories to mount on")?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("proc", "proc", "/proc", quiet, None)?;
    mount_at("sysfs", "sysfs", "/sys", quiet, None)?;
    let devices = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_at("devtmpfs", "devtmpfs", "/dev", devices, Some("mode=755"))?;
    // The delegation makes a container's cgroup namespace a boundary for processes.
    let cgroups = "/sys/fs/cgroup";
    mount_at("cgroup2", "cgroup2", cgroups, quiet, Some("nsdelegate"))?;
    mount_at("virtiofs", ROOT_TAG, ROOT, none, None)
}

/// Mounts what the host shares besides the container's root.
pub(super) fn mount_share() -> Result<(), InitError> {
    mount_at("virtiofs", SHARE_TAG, SHARE, MsFlags::empty(), None)
}

/// Turns the host's mounts into the guest's own, each with its own flags, so that a container has
/// them from its first instruction on. The kernel by itself mounts them only when a directory is
/// looked into, and with the flags of the mount above; see [`SharedMount`].
pub(super) fn complete(mounts: &[SharedMount]) -> Result<(), InitError> {
    for mount in mounts {
        let path = if mount.below.is_empty() {
            mount.top.clone()
        } else {
            mount.top.join(&mount.below)
        };
        complete_one(&path, &mount.flags).map_err(|source| InitError::Shared { path, source })?;
    }
    Ok(())
}

fn complete_one(path: &Path, flags: &str) -> io::Result<()> {
    let flags = [flags.to_owned()];
    let seen = open_mount(path)?;
    if is_mount(&seen)? {
        return set_flags(&seen, &flags);
    }
    // The kernel mounts only directories.
    let copy = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(&seen, "", copy | OpenTreeFlags::AT_EMPTY_PATH)?;
    set_flags(&copy, &flags)?;
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(&copy, "", &seen, "", both)?)
}

/// Opens what is to be a mount; if it is a directory, the kernel mounts it for that. Others who
/// have the directory may put symbolic links in the way, which aren't followed.
fn open_mount(path: &Path) -> rustix::io::Result<OwnedFd> {
    let open = |kind| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | kind;
        openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
    };
    match open(OFlags::DIRECTORY) {
        Err(Errno::NOTDIR) => open(OFlags::empty()),
        other => other,
    }
}

fn is_mount(file: &OwnedFd) -> rustix::io::Result<bool> {
    let status = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Drops the caches of files that nobody uses.
pub(super) fn forget_files() -> Result<(), InitError> {
    /// The first stops the logging of these writes; the second drops names and inodes ([kernel
    /// document](https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches)).
    const WORDS: [&str; 2] = ["4", "2"];
    for word in WORDS {
        write("/proc/sys/vm/drop_caches", word).step(|| "have the kernel forget files")?;
    }
    Ok(())
}

fn mount_at(
    kind: &'static str,
    source: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
) -> Result<(), InitError> {
    mount(Some(source), at, Some(kind), flags, options).map_err(|error| InitError::Mount {
        what: kind,
        at,
        source: error.into(),
    })
}
