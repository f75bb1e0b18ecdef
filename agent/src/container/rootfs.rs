//! The container's root file system.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::MOUNT_ATTR_RDONLY;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir, pivot_root};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::error::{InitError, Step};
use super::mounts::attach;
use super::sys::{MountAttributes, mount_setattr};

/// `linux.rootfsPropagation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Propagation {
    Private,
    /// Also when nothing is asked for, so that what the caller's namespace unmounts goes away
    /// in the container too.
    #[default]
    Slave,
    Shared,
    Unbindable,
}

impl Propagation {
    /// Understands the field's value; the recursive forms mean the same.
    pub(super) fn parse(value: &str) -> Option<Self> {
        Some(match value {
            "" => Propagation::default(),
            "private" | "rprivate" => Propagation::Private,
            "slave" | "rslave" => Propagation::Slave,
            "shared" | "rshared" => Propagation::Shared,
            "unbindable" | "runbindable" => Propagation::Unbindable,
            _ => return None,
        })
    }
}

/// A root file system that is being assembled, in the init's own mount namespace.
pub(super) struct Rootfs {
    /// The root of the mount that becomes the container's root.
    mount: OwnedFd,
    propagation: Propagation,
    /// Mounts to make read-only when everything is in place.
    readonly_at_end: Vec<OwnedFd>,
}

impl Rootfs {
    /// Cuts this mount namespace off from the one it is a copy of, and puts a mount of its
    /// own where `path` is.
    pub(super) fn attach(path: &Path, propagation: Propagation) -> Result<Self, InitError> {
        let all = match propagation {
            // Bind mounts in the container can then be in a peer group with the caller's.
            Propagation::Shared => MsFlags::MS_SHARED,
            Propagation::Slave => MsFlags::MS_SLAVE,
            Propagation::Private | Propagation::Unbindable => MsFlags::MS_PRIVATE,
        };
        change_propagation(Path::new("/"), all | MsFlags::MS_REC)
            .step(|| "set the propagation of mounts")?;
        if propagation == Propagation::Shared {
            make_mount_above_private(path)?;
        }
        let mount = open_tree(
            CWD,
            path,
            OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE,
        )
        .step(|| format!("bind root.path {}", path.display()))?;
        let target = open(
            path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .step(|| format!("open root.path {}", path.display()))?;
        attach(&mount, target).step(|| "attach the root mount")?;
        Ok(Rootfs {
            mount,
            propagation,
            readonly_at_end: Vec::new(),
        })
    }

    /// The root directory.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Remembers a mount to make read-only at the end.
    pub(super) fn make_readonly_at_end(&mut self, mount: OwnedFd) {
        self.readonly_at_end.push(mount);
    }

    /// Makes it the root of this mount namespace, and lets go of all else in there.
    pub(super) fn enter(self, readonly: bool) -> Result<(), InitError> {
        let propagation = match self.propagation {
            Propagation::Slave => 0,
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let old_root = open("/", flags, Mode::empty()).step(|| "open the old root")?;
        fchdir(&self.mount).step(|| "change to the container's root")?;
        // With the same directory twice, the old root ends up on top of the new one, and no
        // directory is needed to hold it
        // (https://man7.org/linux/man-pages/man2/pivot_root.2.html).
        pivot_root(".", ".").step(|| "pivot to the container's root")?;
        // So that unmounting the old root reaches nobody else's.
        let slave = MountAttributes {
            propagation: libc::MS_SLAVE,
            ..Default::default()
        };
        mount_setattr(old_root, slave, true).step(|| "detach the old root")?;
        umount2(".", MntFlags::MNT_DETACH).step(|| "unmount the old root")?;
        chdir("/").step(|| "change to the new root")?;

        let read_only = MountAttributes {
            set: MOUNT_ATTR_RDONLY,
            ..Default::default()
        };
        for mount in &self.readonly_at_end {
            mount_setattr(mount, read_only, false).step(|| "make a tmpfs read-only")?;
        }
        let root = MountAttributes {
            set: if readonly { MOUNT_ATTR_RDONLY } else { 0 },
            propagation,
            ..Default::default()
        };
        if root != MountAttributes::default() {
            mount_setattr(&self.mount, root, false).step(|| "set the root's mount options")?;
        }
        Ok(())
    }
}

fn change_propagation(path: &Path, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}

/// Makes the mount that `path` lies in private: what is mounted on a shared one appears in the
/// caller's namespace too, and pivot_root refuses it.
fn make_mount_above_private(path: &Path) -> Result<(), InitError> {
    for ancestor in path.ancestors() {
        match change_propagation(ancestor, MsFlags::MS_PRIVATE) {
            // Not where a mount begins.
            Err(Errno::EINVAL) => {}
            other => {
                return other.step(|| format!("make the mount at {} private", ancestor.display()));
            }
        }
    }
    Ok(())
}
