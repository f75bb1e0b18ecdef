//! What a container sees of its cgroup: a mount of the type `cgroup`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, mkdirat, symlinkat};
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::cgroups::Cgroup;
use super::mounts::{attach, tmpfs};

/// A container's cgroup, as it may see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) cgroup: Option<&'a Cgroup>,
    /// Whether it has a cgroup namespace of its own, in which its cgroup is the root.
    pub(super) has_namespace: bool,
}

impl<'a> View<'a> {
    /// What to bind in the place of a cgroup2 file system. Without a cgroup namespace, that
    /// would show the caller's whole tree.
    pub(super) fn in_place_of_v2(&self) -> Option<&'a Path> {
        let cgroup = self.cgroup.filter(|_| !self.has_namespace);
        cgroup.and_then(Cgroup::v2_path)
    }

    /// Whether the container is in the caller's cgroup, and sees what the caller sees.
    pub(super) fn is_the_callers(&self) -> bool {
        self.cgroup.is_none() && !self.has_namespace
    }

    /// Whether the container is to see version 1: a `cgroup` mount is that where there is such a
    /// thing.
    pub(super) fn has_v1(&self) -> bool {
        self.cgroup.is_some_and(Cgroup::is_in_v1)
    }

    /// Mounts a tmpfs on `target`, with the container's own part of each hierarchy of version 1
    /// in a directory of its name, as runc does. Returns it.
    ///
    /// Bound, it is the same whether there is a cgroup namespace or not: the kernel shows paths
    /// from the namespace's root.
    ///
    /// # Errors
    ///
    /// What was tried, and the kernel's reason.
    pub(super) fn mount_v1(&self, target: &OwnedFd) -> Result<OwnedFd, (String, io::Error)> {
        let tmpfs = tmpfs(MountAttrFlags::empty())
            .map_err(|e| ("make a tmpfs for the cgroups".to_owned(), e.into()))?;
        attach(&tmpfs, target).map_err(|e| ("attach the cgroups' tmpfs".to_owned(), e.into()))?;
        for (controllers, directory) in self.cgroup.into_iter().flat_map(Cgroup::v1_paths) {
            bind(&tmpfs, controllers, directory)
                .map_err(|e| (format!("bind {}", directory.display()), e.into()))?;
        }
        Ok(tmpfs)
    }
}

/// Binds a directory in `tmpfs`, which nobody else has seen yet, so that names can be trusted.
fn bind(tmpfs: &OwnedFd, controllers: &[String], directory: &Path) -> rustix::io::Result<()> {
    let name = controllers.join(",");
    let name = name.strip_prefix("name=").unwrap_or(&name);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, directory, flags)?;
    mkdirat(tmpfs, name, Mode::from_raw_mode(0o755))?;
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", tmpfs.as_fd(), name, from_fd)?;
    if controllers.len() > 1 {
        for controller in controllers {
            symlinkat(name, tmpfs, controller.as_str())?;
        }
    }
    Ok(())
}
