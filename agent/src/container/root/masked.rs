//! `linux.maskedPaths` and `linux.readonlyPaths`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use libc::MOUNT_ATTR_RDONLY;
use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat, makedev};
use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::rootfs::Rootfs;
use crate::container::error::{InitError, Step, StepError};
use crate::container::kernel::mount_calls::{
    Extent, MountAttributes, attach, mount_setattr, tmpfs,
};

/// The flags of the mount that covers a directory: nothing can be put there, or done with it.
const EMPTY_DIRECTORY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY
    .union(MountAttrFlags::MOUNT_ATTR_NOSUID)
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Hides each of `paths` that exists: a directory below an empty read-only one, anything else below
/// `/dev/null`. Both are the caller's own, so nothing that the container's root has in their place
/// can interfere.
pub(crate) fn mask(root: &Rootfs, paths: &[String]) -> Result<(), InitError> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let step = || format!("mask {path}");
        let Some(target) = open(root, path)? else {
            continue;
        };
        let kind = fstat(&target).step(step)?.st_mode & SFlag::S_IFMT.bits();
        let cover = if kind != SFlag::S_IFDIR.bits() {
            null_device()?
        } else if let Some(empty) = &empty {
            clone_mount(empty).step(step)?
        } else {
            tmpfs(EMPTY_DIRECTORY).step(step)?
        };
        attach(&cover, &target).step(step)?;
        if kind == SFlag::S_IFDIR.bits() {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// Makes each of `paths` that exists read-only, by bind mounting it on itself.
pub(crate) fn make_readonly(root: &Rootfs, paths: &[String]) -> Result<(), InitError> {
    let read_only = MountAttributes {
        set: MOUNT_ATTR_RDONLY,
        ..Default::default()
    };
    for path in paths {
        let step = || format!("make {path} read-only");
        let Some(target) = open(root, path)? else {
            continue;
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let copy = open_tree(&target, "", flags).step(step)?;
        mount_setattr(&copy, read_only, Extent::Mount).step(step)?;
        attach(&copy, &target).step(step)?;
    }
    Ok(())
}

fn open(root: &Rootfs, path: &str) -> Result<Option<OwnedFd>, StepError> {
    match root.open(Path::new(path)) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        other => other.map(Some).step(|| format!("open {path}")),
    }
}

fn clone_mount(mount: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount.as_fd(), "", flags)
}

fn null_device() -> Result<OwnedFd, InitError> {
    let step = || "bind the caller's /dev/null";
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let null = open_tree(CWD, "/dev/null", flags).step(step)?;
    let status = fstat(&null).step(step)?;
    if status.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFCHR.bits()
        || status.st_rdev != makedev(1, 3)
    {
        return Err(InitError::NotThatDevice {
            path: "/dev/null".to_owned(),
        });
    }
    Ok(null)
}
