//! Makes `mounts`: each is made detached, given its attributes, and only then attached to a target
//! that was resolved inside the container's root. So there is no moment at which a read-only mount
//! can be written, and no path that can be swapped between a check and its use.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::MOUNT_ATTR_RDONLY;
use nix::errno::Errno;
use nix::sys::stat::fstat;
use oci_spec::runtime::Linux;
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};

use super::cgroup_mount::CgroupView;
use super::copy_up::copy_up;
use super::file_system::{NewFileSystem, label_root, reconfigure};
use super::locks;
use super::mount_ids::IdMapper;
use super::target::open_target;
use crate::container::config::mounts::{Mount, MountKind};
use crate::container::error::{InitError, MountError, MountProblem, Step, StepError};
use crate::container::kernel::mount_calls::{
    Extent, MountAttributes, attach, clone_tree, clone_tree_for_another, mount_setattr,
    set_unlocked,
};
use crate::container::kernel::procfs::is_proc;
use crate::container::kernel::safe_path;

/// A mount that was made and needs more work.
pub(crate) enum PendingMount {
    /// It has to be made read-only at the end, when everything below it is in place.
    Unfinished(OwnedFd),
    /// A file system of the kernel, parts of which may have to be masked.
    Kernels(OwnedFd),
}

/// An entry of `mounts` with what the engine has prepared for it.
#[derive(Debug)]
pub(crate) struct PlannedMount {
    mount: Mount,
    /// The SELinux label of its root, for a file system that isn't labelled as a whole.
    root_label: Option<String>,
    /// The source of a bind mount, if the engine has opened it.
    tree: Option<OwnedFd>,
    /// The opened file system, if it can't be opened where it is mounted.
    context: Option<OwnedFd>,
}

impl PlannedMount {
    /// Returns a mount that nothing is prepared for yet, with the label `linux.mountLabel` (which
    /// may be empty) if runc labels its file system.
    pub(crate) fn new(mut mount: Mount, label: &str) -> Self {
        let mut root_label = None;
        if let MountKind::FileSystem { name, .. } = &mount.kind
            && !label.is_empty()
        {
            match name.as_str() {
                // The kernel labels these. Bind mounts have their source's label.
                "proc" | "sysfs" | "cgroup" | "cgroup2" => {}
                "mqueue" => root_label = Some(label.to_owned()),
                _ => {
                    let parameter = ("context".to_owned(), Some(label.to_owned()));
                    mount.options.parameters.push(parameter);
                }
            }
        }
        PlannedMount {
            mount,
            root_label,
            tree: None,
            context: None,
        }
    }

    /// Whether it shows the processes of the pid namespace that it is mounted from.
    pub(crate) fn is_new_proc(&self) -> bool {
        self.mount.is_new("proc")
    }

    /// Whether it binds a directory of the caller's in place of `/dev`.
    pub(crate) fn is_bind_of_dev(&self) -> bool {
        self.mount.is_bind_of_dev()
    }

    /// Returns its path in the container as it is written: links are not followed.
    pub(crate) fn destination(&self) -> &Path {
        &self.mount.destination
    }

    /// Sets an opened file system to make it from.
    pub(crate) fn set_context(&mut self, context: OwnedFd) {
        self.context = Some(context);
    }

    fn failed(&self, problem: impl Into<MountProblem>) -> MountError {
        MountError {
            index: self.mount.index,
            destination: self.mount.destination.clone(),
            problem: problem.into(),
        }
    }

    /// The engine: opens the source of a bind mount, for an init that may have no right to it.
    pub(crate) fn open_source(&mut self) -> Result<(), MountError> {
        if let MountKind::Bind { source, extent } = &self.mount.kind {
            self.tree = clone_tree_for_another(source, *extent)
                .step(|| format!("bind {}", source.display()))
                .map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// The engine: keeps what the source forbids. The kernel stops a user namespace's root from
    /// undoing that, but not on a source that the engine has opened.
    pub(crate) fn respect_locks(&mut self) -> Result<(), MountError> {
        let options = &self.mount.options;
        let clears = options.attributes.clear | options.recursive.clear;
        let MountKind::Bind { source, extent } = &self.mount.kind else {
            return Ok(());
        };
        if self.tree.is_none() || clears == 0 {
            return Ok(());
        }
        let locked = locks::locked_attributes(source, *extent)
            .step(|| "look at the mounts of its source")
            .map_err(|e| self.failed(e))?;
        let options = &mut self.mount.options;
        options.attributes.clear &= !locked.here;
        options.recursive.clear &= !locked.anywhere;
        Ok(())
    }

    /// The engine: maps the owners on those of `mounts` that ask for it, to which the root of a
    /// user namespace has no right. `joined` is the user namespace that the container joins.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(crate) unsafe fn map_ids(
        mounts: &mut [PlannedMount],
        linux: &Linux,
        joined: Option<BorrowedFd<'_>>,
    ) -> Result<(), InitError> {
        let asking = mounts
            .iter_mut()
            .filter(|planned| planned.mount.ids.is_some());
        let mut asking = asking.peekable();
        if asking.peek().is_none() {
            return Ok(());
        }
        let mut mapper = IdMapper::new(linux, joined)?;
        for planned in asking {
            if planned.tree.is_none() {
                planned.open_source()?;
            }
            let mount = &planned.mount;
            let (Some(tree), Some(ids)) = (&planned.tree, &mount.ids) else {
                let path = match &mount.kind {
                    MountKind::Bind { source, .. } => source,
                    _ => &mount.destination,
                };
                let step = format!("open {} with the engine's rights", path.display());
                return Err(StepError::new(step, Errno::EPERM).into());
            };
            // SAFETY: the caller's promise.
            unsafe { mapper.map(mount.index, tree, ids) }?;
        }
        Ok(())
    }

    /// Makes the mount.
    pub(crate) fn make(
        &self,
        root: BorrowedFd<'_>,
        view: CgroupView<'_>,
    ) -> Result<Option<PendingMount>, MountError> {
        let made = match &self.mount.kind {
            MountKind::Remount => self.remount(root).map(|()| None),
            MountKind::Bind { source, extent } => self.bind(root, source, *extent),
            MountKind::FileSystem { name, source } => match name.as_str() {
                "cgroup" | "cgroup2" => self.make_cgroup(root, view, name, source),
                _ => self.make_file_system(root, name, source),
            },
        };
        made.map_err(|problem| self.failed(problem))
    }

    /// Changes what is mounted at the destination: its options, and the parameters of its file
    /// system if any are given.
    fn remount(&self, root: BorrowedFd<'_>) -> Result<(), MountProblem> {
        let options = &self.mount.options;
        let target = safe_path::open(root, &self.mount.destination);
        let target = target.step(|| "open the destination")?;
        if !is_mount_root(&target).step(|| "look at the destination")? {
            return Err(MountProblem::NotMounted);
        }
        self.set_attributes(&target, options.attributes)?;
        if options.parameters.is_empty() {
            return Ok(());
        }
        reconfigure(&target, &options.parameters)
    }

    fn bind(
        &self,
        root: BorrowedFd<'_>,
        source: &Path,
        extent: Extent,
    ) -> Result<Option<PendingMount>, MountProblem> {
        let tree = match &self.tree {
            Some(tree) => tree.try_clone().step(|| "duplicate the source")?,
            None => bound(source, extent)?,
        };
        let target = open_target(root, &self.mount, Some(&tree))?;
        self.set_attributes(&tree, self.mount.options.attributes)?;
        attach(&tree, &target).step(|| "attach it")?;
        Ok(self
            .mount
            .is_kernels()
            .then_some(PendingMount::Kernels(tree)))
    }

    fn make_cgroup(
        &self,
        root: BorrowedFd<'_>,
        view: CgroupView<'_>,
        name: &str,
        source: &Path,
    ) -> Result<Option<PendingMount>, MountProblem> {
        let attributes = self.mount.options.attributes;
        if name == "cgroup" && view.has_v1() {
            let target = open_target(root, &self.mount, None)?;
            let tree = view.mount_v1(&target)?;
            mount_setattr(&tree, attributes, Extent::Tree).step(|| "set its options")?;
            return Ok(None);
        }
        let tree = if let Some(cgroup) = view.in_place_of_v2() {
            let tree = bound(cgroup, Extent::Mount)?;
            self.set_attributes(&tree, attributes)?;
            tree
        } else if view.is_the_callers() {
            // A container of an ordinary user, without a cgroup: its root may mount no other view
            // than the caller's.
            let tree = bound(Path::new("/sys/fs/cgroup"), Extent::Tree)?;
            set_unlocked(&tree, attributes, Extent::Tree).step(|| "set its options")?;
            tree
        } else {
            // Where the host has only cgroup2, the container gets that.
            return self.make_file_system(root, "cgroup2", source);
        };
        let target = open_target(root, &self.mount, None)?;
        attach(&tree, &target).step(|| "attach it")?;
        Ok(None)
    }

    fn make_file_system(
        &self,
        root: BorrowedFd<'_>,
        name: &str,
        source: &Path,
    ) -> Result<Option<PendingMount>, MountProblem> {
        let options = &self.mount.options;
        let was_there = safe_path::open(root, &self.mount.destination).is_ok();
        let target = open_target(root, &self.mount, None)?;
        let mut attributes = options.attributes;
        // Targets of later mounts may have to be made in it.
        let defer = name == "tmpfs" && attributes.set & MOUNT_ATTR_RDONLY != 0;
        if defer {
            attributes.set &= !MOUNT_ATTR_RDONLY;
        }
        let mut parameters = options.parameters.clone();
        if name == "tmpfs" && was_there && parameters.iter().all(|(key, _)| key != "mode") {
            // A tmpfs over a directory has the directory's mode. Where there was none, it is
            // accessible to anybody, the kernel's default.
            let mode = fstat(&target).step(|| "look at the target")?.st_mode & 0o7777;
            parameters.insert(0, ("mode".to_owned(), Some(format!("{mode:o}"))));
        }
        let new = NewFileSystem {
            name,
            source,
            parameters: &parameters,
        };
        let mount = match &self.context {
            Some(context) => {
                let context = context.try_clone().step(|| "duplicate it")?;
                new.make_from(&context, attributes.set)?
            }
            None => new.make(&target, attributes.set)?,
        };
        // The process that opened it may have been made to open something else.
        if self.context.is_some() && !is_proc(&mount).step(|| "look at it")? {
            return Err(MountProblem::NotProc);
        }
        // A new mount has no attributes to clear.
        let rest = MountAttributes {
            propagation: attributes.propagation,
            ..Default::default()
        };
        self.set_attributes(&mount, rest)?;
        if options.copy_up {
            copy_up(target.as_fd(), mount.as_fd()).step(|| "copy what is in the directory")?;
        }
        if let Some(label) = &self.root_label {
            label_root(&mount, label).step(|| "set linux.mountLabel")?;
        }
        attach(&mount, &target).step(|| "attach it")?;
        Ok(if defer {
            Some(PendingMount::Unfinished(mount))
        } else {
            self.mount
                .is_kernels()
                .then_some(PendingMount::Kernels(mount))
        })
    }

    fn set_attributes(
        &self,
        mount: &OwnedFd,
        attributes: MountAttributes,
    ) -> Result<(), MountProblem> {
        let recursive = self.mount.options.recursive;
        for (attributes, extent) in [(recursive, Extent::Tree), (attributes, Extent::Mount)] {
            if attributes != MountAttributes::default() {
                set_unlocked(mount, attributes, extent).step(|| "set its options")?;
            }
        }
        Ok(())
    }
}

fn bound(source: &Path, extent: Extent) -> Result<OwnedFd, MountProblem> {
    Ok(clone_tree(source, extent).step(|| format!("bind {}", source.display()))?)
}

/// Whether `fd` is the root of a mount.
fn is_mount_root(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let status = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
