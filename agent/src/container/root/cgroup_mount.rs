//! What a container sees of its cgroup: a mount of the type `cgroup`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, mkdirat, symlinkat};
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::container::cgroups::Cgroup;
use crate::container::error::{Step, StepError};
use crate::container::kernel::mount_calls::{attach, tmpfs};

/// A container's cgroup, as it may see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CgroupView<'a> {
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// Whether it has a cgroup namespace of its own, in which its cgroup is the root.
    pub(crate) has_namespace: bool,
}

impl<'a> CgroupView<'a> {
    /// Returns what to bind in place of a cgroup2 file system. Without a cgroup namespace, a new
    /// one would show the caller's whole tree.
    pub(crate) fn in_place_of_v2(&self) -> Option<&'a Path> {
        let cgroup = self.cgroup.filter(|_| !self.has_namespace);
        cgroup.and_then(Cgroup::v2_path)
    }

    /// Whether the container is in the caller's cgroup, and sees what the caller sees.
    pub(crate) fn is_the_callers(&self) -> bool {
        self.cgroup.is_none() && !self.has_namespace
    }

    /// Whether the container is to see version 1: where that exists, a `cgroup` mount means it.
    pub(crate) fn has_v1(&self) -> bool {
        self.cgroup.is_some_and(Cgroup::is_in_v1)
    }

    /// Mounts a tmpfs on `target`, and in it the container's own part of each version 1 hierarchy,
    /// in a directory of the hierarchy's name, as runc does. Returns the tmpfs.
    ///
    /// Bind mounts work the same with and without a cgroup namespace: the kernel shows paths
    /// relative to the namespace's root.
    ///
    /// # Errors
    ///
    /// The step that failed, and the kernel's reason.
    pub(crate) fn mount_v1(&self, target: &OwnedFd) -> Result<OwnedFd, StepError> {
        let tmpfs = tmpfs(MountAttrFlags::empty()).step(|| "make a tmpfs for the cgroups")?;
        attach(&tmpfs, target).step(|| "attach the cgroups' tmpfs")?;
        for (controllers, directory) in self.cgroup.into_iter().flat_map(Cgroup::v1_paths) {
            bind(&tmpfs, controllers, directory)
                .step(|| format!("bind {}", directory.display()))?;
        }
        Ok(tmpfs)
    }
}

/// Binds a directory in `tmpfs`, which nobody else has seen yet, so its names can be trusted.
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
