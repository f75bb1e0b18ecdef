//! The directories that are shared with the guest: on a tmpfs in the sandbox process's
//! [home](super::home), the container's root is on `rootfs`, the sources of its bind mounts are on
//! `share/mounts/N` and the programs of its hooks on `share/hooks/N`. No other process sees any of
//! these mounts, and they go away with the sandbox process.

use std::{
    collections::HashMap,
    ffi::{CString, OsStr},
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nacre_agent::{
    container::outside::{Extent, Peers, restrict_mount, set_flags},
    protocol::{OVERLAY, ROOT, ROOT_TAG, SHARE, SHARE_TAG, SharedMount},
};
use nacre_vmm::{
    Landlock,
    devices::virtio::{
        fs::{FileServer, FileServerError, FileShare, MountFlags, Policy, Reach},
        throttle::RateLimit,
    },
};
use rustix::{
    fs::{CWD, FileType, fstat},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::{
    isolation::vm::{
        error::{ShareError, share_failed},
        guest_spec::{Origin, Shared, Source, file_systems},
        seen_mounts,
        stand_in::Trees,
    },
    state::record::Landlocked,
};

use super::home::mount_tmpfs;

/// Where the sources are.
const SOURCES: &str = "share";

/// Which of the file server's directories is the root.
const ROOT_EXPORT: u8 = 0;

/// What covers mounts that a guest isn't served; no guest sees this directory.
const COVERS: &str = "covers";

/// How many mounts a guest is given. Each takes a few KiB of its memory.
const MAX_MOUNTS: usize = 4096;

/// The flags that an overlay takes over from its lower layer.
const FLAGS_OF_A_BASE: [&str; 4] = ["nosuid", "nodev", "noexec", "nosymfollow"];

/// File systems that open what they keep elsewhere for whoever opens a file of theirs, or a directory, and
/// with that one's rights: who is kept to the share by Landlock can't open it. Overlays do that with the
/// rights of who has mounted them.
const REACHING_OUT: [&str; 2] = ["aufs", "ecryptfs"];

/// The share, mounted.
#[derive(Debug)]
pub(super) struct Share {
    path: PathBuf,
    make_root_read_only: bool,
    has_sources: bool,
    /// What the guest is to mount, each mount before those inside it.
    mounts: Vec<SharedMount>,
    /// By the mount's path on this side, the flags among those that bind the file server.
    flags: HashMap<PathBuf, MountFlags>,
    /// How far the file systems of these mounts reach.
    reach: Reach,
    /// Copies of the mounts, until somebody takes them.
    trees: Option<Trees>,
}

impl Share {
    /// Assembles the share at `path`, an empty directory in a mount namespace of this process's
    /// own.
    pub(super) fn assemble(path: PathBuf, shared: &Shared) -> Result<Self, ShareError> {
        mount_tmpfs(&path).map_err(share_failed(
            "can't mount a tmpfs for what the guest shares",
        ))?;
        let mut share = Self {
            path,
            make_root_read_only: shared.root_is_read_only && !shared.root_is_base,
            has_sources: !(shared.binds.is_empty() && shared.hooks.is_empty()),
            mounts: Vec::new(),
            flags: HashMap::new(),
            reach: Reach::Inside,
            trees: None,
        };
        let trees = share.fill(shared)?;
        share.trees = Some(trees);
        Ok(share)
    }

    /// Binds everything to its place; returns copies of the container's mounts, with the flags that
    /// they have on the host.
    fn fill(&mut self, shared: &Shared) -> Result<Trees, ShareError> {
        let root = Source {
            origin: Origin::Path(shared.root.clone()),
            is_directory: true,
            // An overlay can't be entered where something is mounted on its base.
            recursive: !shared.root_is_base,
            // In a root that isn't a base, mount points may have to be made first.
            options: if shared.root_is_base {
                vec!["ro".to_owned()]
            } else {
                Vec::new()
            },
            ids: None,
        };
        let covers = self.path.join(COVERS);
        bind(&root, &self.root(), &covers)?;
        self.list_root(shared.root_is_base)?;
        for (name, sources) in [("mounts", &shared.binds), ("hooks", &shared.hooks)] {
            let directory = self.path.join(SOURCES).join(name);
            fs::create_dir_all(&directory)
                .map_err(share_failed("can't make a directory on a tmpfs"))?;
            for (index, source) in sources.iter().enumerate() {
                let place = directory.join(index.to_string());
                bind(source, &place, &covers)?;
                let top = Path::new(SHARE).join(name).join(index.to_string());
                self.list(&place, &top)?;
            }
        }
        let trees = self.copy(shared.binds.len())?;
        // Nothing that a guest creates here may be executed or used as a device on this side.
        let inert = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
        set_attributes(&self.path, inert, libc::MS_PRIVATE, libc::AT_RECURSIVE)
            .map_err(share_failed("can't make the share private"))?;
        set_attributes(&self.path, libc::MOUNT_ATTR_RDONLY, 0, 0)
            .map_err(share_failed("can't make the share read-only"))?;
        Ok(trees)
    }

    /// Remembers the mounts of the tree at `place` here and at `top` in the guest, with the flags
    /// that they are to have there: on this side they get more.
    fn list(&mut self, place: &Path, top: &Path) -> Result<(), ShareError> {
        let failed =
            || share_failed::<io::Error>("can't list the mounts that are shared with the guest");
        let seen = seen_mounts::at(place).map_err(failed())?;
        for mount in &seen {
            let has = |flag: &str| mount.flags.split(',').any(|known| known == flag);
            let (nosuid, nodev) = (has("nosuid"), has("nodev"));
            let path = place.join(&mount.below);
            self.flags.insert(path, MountFlags { nosuid, nodev });
            if reach_of(&mount.file_system) == Reach::Outside {
                self.reach = Reach::Outside;
            }
        }
        self.mounts
            .extend(seen.into_iter().map(|mount| SharedMount {
                top: top.to_owned(),
                below: mount.below.into_os_string(),
                flags: mount.flags,
            }));
        match self.mounts.len() {
            ..=MAX_MOUNTS => Ok(()),
            _ => {
                let problem = format!("there are more than {MAX_MOUNTS}");
                Err(failed()(io::Error::other(problem)))
            }
        }
    }

    fn list_root(&mut self, is_base: bool) -> Result<(), ShareError> {
        if !is_base {
            return self.list(&self.root(), Path::new(ROOT));
        }
        self.list(&self.root(), Path::new(OVERLAY))?;
        for mount in &mut self.mounts {
            let flags = mount.flags.split(',');
            let flags: Vec<&str> = flags
                .filter(|flag| FLAGS_OF_A_BASE.contains(flag))
                .collect();
            mount.flags = flags.join(",");
        }
        Ok(())
    }

    /// Returns the policy for these mounts as the calling process has them, which isn't in force
    /// yet.
    pub(super) fn policy(&self) -> io::Result<Policy> {
        let seen = seen_mounts::at(&self.path)?.into_iter();
        let known = seen.filter_map(|mount| {
            let flags = self.flags.get(&self.path.join(mount.below))?;
            Some((mount.id, *flags))
        });
        Ok(Policy::new(known.collect()))
    }

    /// The mounts of the share that the guest is to make.
    pub(super) fn mounts(&self) -> &[SharedMount] {
        &self.mounts
    }

    fn copy(&self, binds: usize) -> Result<Trees, ShareError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let copy = |path: PathBuf| {
            let tree = open_tree(CWD, &path, flags);
            tree.map_err(share_failed("can't copy what is shared with the guest"))
        };
        let mounts = self.path.join(SOURCES).join("mounts");
        let binds = (0..binds).map(|index| copy(mounts.join(index.to_string())));
        Ok(Trees {
            root: copy(self.root())?,
            binds: binds.collect::<Result<_, _>>()?,
        })
    }

    /// Returns the copies of the container's root and of its bind mounts' sources, once.
    pub(super) fn take_trees(&mut self) -> Option<Trees> {
        self.trees.take()
    }

    /// Where the container's root is.
    pub(super) fn root(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    /// Where the sources of bind mounts and the programs of hooks are, if there are any.
    pub(super) fn sources(&self) -> Option<PathBuf> {
        self.has_sources.then(|| self.path.join(SOURCES))
    }

    /// Returns what Landlock will keep those from that serve this and run the VM.
    pub(super) fn landlocked(&self) -> Landlocked {
        let landlock = Landlock::find();
        Landlocked {
            monitor: landlock.is_some(),
            file_server: self.reach == Reach::Inside
                && landlock.is_some_and(Landlock::keeps_to_directories),
        }
    }

    /// Returns what the file server shows: with `files` files that the guest may know, an alarm when
    /// it knows most of them, and a limit on what is done for it.
    pub(super) fn for_server(
        &self,
        files: u64,
        alarm: Arc<OwnedFd>,
        limit: RateLimit,
    ) -> FileShare {
        let mut exports = vec![(ROOT_TAG, self.root())];
        exports.extend(self.sources().map(|path| (SHARE_TAG, path)));
        FileShare {
            root: self.path.clone(),
            exports,
            reach: self.reach,
            files,
            alarm,
            limit,
        }
    }

    /// Makes a root that is to be read-only so on this side, too, once the container has been made,
    /// and with it the mount points that its root lacked.
    pub(super) fn seal_root(&self) -> Result<(), ShareError> {
        if !self.make_root_read_only {
            return Ok(());
        }
        set_attributes(&self.root(), libc::MOUNT_ATTR_RDONLY, 0, 0)
            .map_err(share_failed("can't make the root read-only"))
    }

    /// Does the same in the file server, which has copies of these mounts.
    pub(super) fn seal_root_of(&self, server: &FileServer) -> Result<(), FileServerError> {
        if !self.make_root_read_only {
            return Ok(());
        }
        server.seal(ROOT_EXPORT)
    }
}

/// Returns how far file systems of a type reach.
fn reach_of(kind: &OsStr) -> Reach {
    if REACHING_OUT.into_iter().any(|known| kind == known) {
        Reach::Outside
    } else {
        Reach::Inside
    }
}

/// Mounts a source at its place, and covers what a guest isn't served with what is in `covers`.
fn bind(source: &Source, target: &Path, covers: &Path) -> Result<(), ShareError> {
    let unshared =
        || share_failed::<io::Error>(format!("can't share {} with the guest", source.origin));
    if source.is_directory {
        fs::create_dir(target).map_err(unshared())?;
    } else {
        File::create(target).map_err(unshared())?;
    }
    let tree = match &source.origin {
        Origin::Path(path) => copy_of(path, source).map_err(unshared())?,
        Origin::Overlay(overlay) => overlay.mount(target).map_err(unshared())?,
    };
    if let Some(ids) = &source.ids {
        let what = format!("can't map the owners of {}", source.origin);
        // SAFETY: this process has no other thread yet: the devices come later.
        unsafe { ids.apply(&tree) }.map_err(share_failed(what))?;
    }
    // Nothing mounted below it later gets in.
    restrict_mount(&tree, 0, Peers::Leave, Extent::Tree)
        .and_then(|()| set_flags(&tree, &source.options))
        .map_err(unshared())?;
    if let Origin::Path(_) = source.origin {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&tree, "", CWD, target, flags).map_err(|error| unshared()(error.into()))?;
    }
    if source.recursive && source.is_directory {
        file_systems::cover_below(target, covers).map_err(unshared())?;
    }
    Ok(())
}

/// Copies the mounts at a path; the copy is attached nowhere.
fn copy_of(path: &Path, source: &Source) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if source.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, path, flags)?;
    // It isn't what was looked at before if somebody has since replaced it with a link.
    let kind = FileType::from_raw_mode(fstat(&tree)?.st_mode);
    let is_as_before = if source.is_directory {
        kind.is_dir()
    } else {
        kind.is_file()
    };
    if !is_as_before {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    match file_systems::not_served_file(&tree)? {
        None => Ok(tree),
        Some(kind) => {
            let problem = format!("it is in a file system of the type {kind}");
            Err(io::Error::other(problem))
        }
    }
}

/// Sets attributes of a mount (mount_setattr(2)), and its propagation unless that is 0.
fn set_attributes(path: &Path, set: u64, propagation: u64, flags: libc::c_int) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    // SAFETY: path is a C string, and attributes is of the size that is given; neither is kept.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match outcome {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
