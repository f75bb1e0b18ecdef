//! Makes mounts and changes them, by descriptors
//! ([mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::MOUNT_ATTR__ATIME;
use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// What a call on a mount applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The mount alone.
    Mount,
    /// The mount and all below it.
    Tree,
}

/// What [`mount_setattr`] changes on a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MountAttributes {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear first.
    pub(crate) clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or 0 to leave it unchanged.
    pub(crate) propagation: u64,
}

/// Changes the mount whose root is `mount`, or its tree
/// ([mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html)).
pub(crate) fn mount_setattr(
    mount: impl AsFd,
    attributes: MountAttributes,
    extent: Extent,
) -> io::Result<()> {
    let argument = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    set_mount_attributes(mount, argument, extent)
}

/// Maps the owners of files on a mount, or on its tree, by the mappings of a user namespace.
pub(crate) fn map_mount_ids(
    mount: impl AsFd,
    user_namespace: BorrowedFd<'_>,
    extent: Extent,
) -> io::Result<()> {
    let argument = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    set_mount_attributes(mount, argument, extent)
}

fn set_mount_attributes(
    mount: impl AsFd,
    mut argument: libc::mount_attr,
    extent: Extent,
) -> io::Result<()> {
    let below = match extent {
        Extent::Mount => 0,
        Extent::Tree => libc::AT_RECURSIVE,
    };
    // SAFETY: the path is a C string, and `argument` a valid mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw mut argument,
            size_of_val(&argument),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets attributes of a mount. Those that a user namespace above has locked stay set.
pub(crate) fn set_unlocked(
    mount: &OwnedFd,
    attributes: MountAttributes,
    extent: Extent,
) -> io::Result<()> {
    let kept = match mount_setattr(mount, attributes, extent) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) && attributes.clear != 0 => {
            MountAttributes {
                // Access times are one field, which can't be set without clearing it.
                set: attributes.set & !MOUNT_ATTR__ATIME,
                clear: 0,
                ..attributes
            }
        }
        other => return other,
    };
    mount_setattr(mount, kept, extent)
}

/// Makes a tmpfs of the engine's own, with these flags and a root that anyone may enter, not
/// attached yet.
pub(crate) fn tmpfs(flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "tmpfs")?;
    fsconfig_set_string(&context, "mode", "755")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Attaches a detached mount to the file that `target` has open.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    move_mount(
        mount,
        "",
        target,
        "",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
    )
}

/// Clones the mount at `path`, or its tree, without attaching it.
pub(crate) fn clone_tree(path: &Path, extent: Extent) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if extent == Extent::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

/// The engine: as [`clone_tree`], with its own rights, for an init that loses them in a user
/// namespace. Returns `None` for an ordinary user, who can't do that; but the root of their
/// containers is that user.
pub(crate) fn clone_tree_for_another(path: &Path, extent: Extent) -> io::Result<Option<OwnedFd>> {
    let tree = match clone_tree(path, extent) {
        Err(rustix::io::Errno::PERM) => return Ok(None),
        other => other?,
    };
    // Mounts made in the container must not appear in the caller's namespace.
    let slave = MountAttributes {
        propagation: libc::MS_SLAVE,
        ..Default::default()
    };
    mount_setattr(&tree, slave, Extent::Tree)?;
    Ok(Some(tree))
}
