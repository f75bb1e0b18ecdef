//! The container's root file system.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libc::MOUNT_ATTR_RDONLY;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use crate::container::config::propagation::Propagation;
use crate::container::error::{Step, StepError};
use crate::container::kernel::mount_calls::{
    Extent, MountAttributes, attach, clone_tree, mount_setattr,
};
use crate::container::kernel::mountinfo::mount_lines;
use crate::container::kernel::safe_path::{self, clean};

/// A root file system that is being assembled, in the init's own mount namespace.
pub(crate) struct Rootfs {
    /// The root of the mount that becomes the container's root.
    mount: OwnedFd,
    propagation: Propagation,
    /// Mounts to make read-only when everything is in place.
    readonly_at_end: Vec<OwnedFd>,
    /// File systems of the kernel: where they are mounted, and their mounts.
    kernels: Vec<(PathBuf, OwnedFd)>,
}

impl Rootfs {
    /// Cuts this mount namespace off from the one that it was copied from, and mounts a clone of
    /// `path` at `path`; or `tree`, if the engine has cloned it, over the old root: a user
    /// namespace's root may be unable to reach `path`.
    pub(crate) fn attach(
        path: &Path,
        propagation: Propagation,
        tree: Option<OwnedFd>,
    ) -> Result<Self, StepError> {
        let all = match propagation {
            // Bind mounts in the container can then be in a peer group with the caller's.
            Propagation::Shared => MsFlags::MS_SHARED,
            Propagation::Slave => MsFlags::MS_SLAVE,
            Propagation::Private | Propagation::Unbindable => MsFlags::MS_PRIVATE,
        };
        change_propagation(Path::new("/"), all | MsFlags::MS_REC)
            .step(|| "set the propagation of mounts")?;
        let at = match tree {
            Some(_) => Path::new("/"),
            None => path,
        };
        if propagation == Propagation::Shared {
            make_mount_above_private(at)?;
        }
        let mount = match tree {
            Some(tree) => {
                let step = || "set the propagation of the root's mounts";
                let set = |propagation, extent| {
                    let attributes = MountAttributes {
                        propagation,
                        ..Default::default()
                    };
                    mount_setattr(&tree, attributes, extent)
                };
                set(all.bits(), Extent::Tree).step(step)?;
                if propagation == Propagation::Shared {
                    // pivot_root refuses a shared mount. It is made shared at the end.
                    set(libc::MS_PRIVATE, Extent::Mount).step(step)?;
                }
                tree
            }
            None => clone_tree(path, Extent::Tree)
                .step(|| format!("bind root.path {}", path.display()))?,
        };
        let target = open(
            at,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .step(|| format!("open {}", at.display()))?;
        attach(&mount, target).step(|| "attach the root mount")?;
        Ok(Rootfs {
            mount,
            propagation,
            readonly_at_end: Vec::new(),
            kernels: Vec::new(),
        })
    }

    /// Returns the root directory.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Remembers a mount to make read-only at the end.
    pub(crate) fn make_readonly_at_end(&mut self, mount: OwnedFd) {
        self.readonly_at_end.push(mount);
    }

    /// Remembers a mount of a file system of the kernel.
    pub(crate) fn remember(&mut self, path: &Path, mount: OwnedFd) {
        self.kernels.push((path.to_owned(), mount));
    }

    /// Opens a path in it. A path in a file system of the kernel is resolved from the mount that
    /// was made: the way there leads through the image, and may have changed by now.
    pub(crate) fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        let path = clean(path);
        let mut kernels = self.kernels.iter().rev();
        let below = kernels.find_map(|(at, mount)| Some((mount, path.strip_prefix(at).ok()?)));
        match below {
            Some((mount, rest)) if !rest.as_os_str().is_empty() => {
                safe_path::open(mount.as_fd(), rest)
            }
            _ => safe_path::open(self.fd(), &path),
        }
    }

    /// Makes it the root of this mount namespace, and detaches everything else. With `no_pivot`
    /// everything else stays, out of reach of whoever can't leave a chroot.
    pub(crate) fn enter(self, readonly: bool, no_pivot: bool) -> Result<(), StepError> {
        let propagation = match self.propagation {
            Propagation::Slave => 0,
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        };
        if no_pivot {
            self.cover_the_old_root()?
        } else {
            self.pivot()?
        }

        let read_only = MountAttributes {
            set: MOUNT_ATTR_RDONLY,
            ..Default::default()
        };
        for mount in &self.readonly_at_end {
            mount_setattr(mount, read_only, Extent::Mount).step(|| "make a tmpfs read-only")?;
        }
        let root = MountAttributes {
            set: if readonly { MOUNT_ATTR_RDONLY } else { 0 },
            propagation,
            ..Default::default()
        };
        if root != MountAttributes::default() {
            mount_setattr(&self.mount, root, Extent::Mount)
                .step(|| "set the root's mount options")?;
        }
        Ok(())
    }
}

impl Rootfs {
    fn pivot(&self) -> Result<(), StepError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let old_root = open("/", flags, Mode::empty()).step(|| "open the old root")?;
        fchdir(&self.mount).step(|| "change to the container's root")?;
        // With the same directory twice, the old root ends up on top of the new one, and no
        // directory is needed to hold it
        // (https://man7.org/linux/man-pages/man2/pivot_root.2.html).
        pivot_root(".", ".").step(|| "pivot to the container's root")?;
        // So that unmounting the old root doesn't propagate to other namespaces.
        let slave = MountAttributes {
            propagation: libc::MS_SLAVE,
            ..Default::default()
        };
        mount_setattr(old_root, slave, Extent::Tree).step(|| "detach the old root")?;
        umount2(".", MntFlags::MNT_DETACH).step(|| "unmount the old root")?;
        chdir("/").step(|| "change to the new root")?;
        Ok(())
    }

    fn cover_the_old_root(&self) -> Result<(), StepError> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", self.mount.as_raw_fd()))
            .step(|| "read the path of the container's root")?;
        let mounts = std::fs::read("/proc/self/mountinfo").step(|| "list the mounts")?;
        for at in revealing_mounts(&mounts) {
            if !at.starts_with(&path) {
                hide(&at).step(|| format!("unmount {}", at.display()))?;
            }
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let old_root = open("/", flags, Mode::empty()).step(|| "open the old root")?;
        fchdir(&self.mount).step(|| "change to the container's root")?;
        attach(&self.mount, old_root).step(|| "move the container's root over the old one")?;
        change_root(&self.mount)
    }
}

/// Makes a directory the root of this process, and its working directory.
pub(crate) fn change_root(directory: &OwnedFd) -> Result<(), StepError> {
    fchdir(directory).step(|| "change to the container's root")?;
    chroot(".").step(|| "make the container's root this process's")?;
    chdir("/").step(|| "change to the new root")
}

/// Returns where whole proc and sys file systems are mounted. As long as a mount namespace has one
/// that shows everything, its members may mount another in their own user namespace, whatever is
/// masked in the container's.
fn revealing_mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    mount_lines(mountinfo)
        .filter(|line| {
            let whole = line.root == Path::new("/");
            whole && (line.file_system == "proc" || line.file_system == "sysfs")
        })
        .map(|line| line.point)
        .collect()
}

/// Unmounts what is mounted at `path`, in this namespace only, or covers it.
fn hide(path: &Path) -> nix::Result<()> {
    change_propagation(path, MsFlags::MS_SLAVE | MsFlags::MS_REC)?;
    match umount2(path, MntFlags::MNT_DETACH) {
        // It belongs to a user namespace above, and can't be unmounted.
        Err(Errno::EINVAL | Errno::EPERM) => {
            let none = None::<&str>;
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), none)
        }
        other => other,
    }
}

fn change_propagation(path: &Path, flags: MsFlags) -> nix::Result<()> {
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>)
}

/// Makes the mount that contains `path` private: a mount on a shared one appears in the caller's
/// namespace too, and pivot_root refuses it.
fn make_mount_above_private(path: &Path) -> Result<(), StepError> {
    for ancestor in path.ancestors() {
        match change_propagation(ancestor, MsFlags::MS_PRIVATE) {
            // Not a mount point.
            Err(Errno::EINVAL) => {}
            other => {
                return other.step(|| format!("make the mount at {} private", ancestor.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_proc_and_sys_file_systems_are_found() {
        let mountinfo = b"21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            22 21 0:5 / /proc rw shared:12 master:3 - proc proc rw\n\
            23 22 0:5 /sys /proc/sys ro - proc proc rw\n\
            24 21 0:6 / /a\\040b\\134 rw - sysfs sysfs rw\n\
            25 21 0:7 / /proc/fs/proc rw - tmpfs proc rw\n\
            broken\n";
        let expected = ["/proc", "/a b\\"].map(PathBuf::from);
        assert_eq!(revealing_mounts(mountinfo), expected);
    }
}
