//! What a container's stand-in has at its root: what the container has, as far as that is on the
//! host.
//!
//! The container's root with the sources of its bind mounts where they are mounted, as the
//! configuration orders them and with its flags. What is mounted in the guest alone (a tmpfs, a
//! volatile root) can't be seen from here. An empty directory that can't be written to covers its
//! place, so that nobody who looks for it finds, or changes, what lies below.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nacre_agent::{
    container::outside::{
        Forbidden, destination, open_in_root, open_or_make_in_root, restrict_mount,
    },
    protocol::SHARE,
};
use nix::{
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::Mode,
    unistd::{chdir, pivot_root},
};
use oci_spec::runtime::{Mount, Spec};
use rustix::{
    fs::{CWD, FileType, fstat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

use super::StandInError;
use crate::isolation::vm::guest_spec::Shared;

/// What no file of a container's is on this side.
const INERT: u64 = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;

/// Where the view is mounted before it is the root. Every host has it.
const MOUNT_POINT: &str = "/proc";

/// Copies of the mounts that are shared with the guest, attached nowhere.
#[derive(Debug)]
pub(in crate::isolation::vm) struct Trees {
    pub(in crate::isolation::vm) root: OwnedFd,
    /// As `Shared::binds`.
    pub(in crate::isolation::vm) binds: Vec<OwnedFd>,
}

/// A container's root and mounts, as they are to be seen.
#[derive(Debug)]
pub(in crate::isolation::vm) struct View {
    mounts: Vec<Placed>,
    masked: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
    root_is_read_only: bool,
    /// What the container writes to its root is in the guest.
    root_is_guests: bool,
}

/// What is mounted somewhere.
#[derive(Debug)]
struct Placed {
    destination: PathBuf,
    forbidden: Forbidden,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The source of this number.
    Shared { number: usize, read_only: bool },
    /// Something of the guest's, on a directory or a file.
    Guests { is_directory: bool },
    /// Other flags for what is there.
    Flags,
}

impl View {
    /// The one of a container with this configuration, as its guest has it.
    pub(in crate::isolation::vm) fn of(spec: &Spec, shared: &Shared) -> Self {
        let linux = spec.linux().clone().unwrap_or_default();
        let paths = |paths: &Option<Vec<String>>| {
            let paths = paths.iter().flatten();
            paths.map(PathBuf::from).collect()
        };
        let mut sources = shared.binds.iter().enumerate();
        let mounts = spec.mounts().iter().flatten().map(|mount| {
            let options = mount.options().as_deref().unwrap_or_default();
            let forbidden = Forbidden::by(options);
            let what = match is_bind(mount) {
                _ if forbidden.remount => What::Flags,
                true if is_shared(mount) => {
                    let (number, source) = sources.next()?;
                    let read_only = source.read_only;
                    What::Shared { number, read_only }
                }
                is_device => What::Guests {
                    is_directory: !is_device,
                },
            };
            Some(Placed {
                destination: destination(mount),
                forbidden,
                what,
            })
        });
        Self {
            mounts: mounts.flatten().collect(),
            masked: paths(linux.masked_paths()),
            read_only: paths(linux.readonly_paths()),
            root_is_read_only: shared.root_is_read_only,
            root_is_guests: shared.root_is_base,
        }
    }

    /// Puts it together, by way of the empty directory `place`, which is left as it was. The
    /// guest has made the container already, and so what is mounted on.
    pub(in crate::isolation::vm) fn make(
        &self,
        place: &Path,
        trees: Trees,
    ) -> Result<OwnedFd, StandInError> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let (kind, options) = (Some("tmpfs"), Some("mode=0755,size=1m"));
        mount(Some("nacre"), place, kind, flags, options)
            .map_err(failed("what the host doesn't have"))?;
        let made = self.fill(place, trees);
        let unmounted = umount2(place, MntFlags::MNT_DETACH);
        let view = made?;
        unmounted.map_err(failed("the container's root alone"))?;
        Ok(view)
    }

    fn fill(&self, place: &Path, trees: Trees) -> Result<OwnedFd, StandInError> {
        let mut covers = Covers {
            place,
            made: Vec::new(),
        };
        let root = match self.root_is_guests {
            true => covers.make(true),
            false => Ok(trees.root),
        };
        let assembled = root.and_then(|root| {
            restrict_mount(&root, INERT, true, true)?;
            let point = place.join("root");
            fs::create_dir(&point)?;
            attach(&root, open_path(&point)?)?;
            Ok(root)
        });
        let root = assembled.map_err(failed("the container's root"))?;
        let mut binds: Vec<_> = trees.binds.into_iter().map(Some).collect();
        for placed in &self.mounts {
            let source = match placed.what {
                What::Shared { number, .. } => binds.get_mut(number).and_then(Option::take),
                _ => None,
            };
            let put = placed.put(&root, source, &mut covers);
            put.map_err(failed(placed.destination.display().to_string()))?;
        }
        for path in &self.masked {
            let masked = mask(&root, path, &mut covers);
            masked.map_err(failed(path.display().to_string()))?;
        }
        for path in &self.read_only {
            let made = make_read_only(&root, path);
            made.map_err(failed(path.display().to_string()))?;
        }
        let sealed = covers.seal().and_then(|()| {
            if self.root_is_read_only || self.root_is_guests {
                restrict_mount(&root, libc::MOUNT_ATTR_RDONLY, false, false)?;
            }
            let view = clone(&root)?;
            restrict_mount(&view, 0, true, true)?;
            Ok(view)
        });
        sealed.map_err(failed("the container's root"))
    }
}

impl Placed {
    fn put(
        &self,
        root: &OwnedFd,
        source: Option<OwnedFd>,
        covers: &mut Covers<'_>,
    ) -> io::Result<()> {
        let Forbidden { there, below, .. } = self.forbidden;
        let path = &self.destination;
        match (self.what, source) {
            (What::Shared { read_only, .. }, Some(source)) => {
                let target = open_or_make_in_root(root.as_fd(), path, is_directory(&source)?)?;
                let all = match read_only {
                    true => below | libc::MOUNT_ATTR_RDONLY,
                    false => below,
                };
                restrict_mount(&source, INERT | all, true, true)?;
                restrict_mount(&source, there, false, false)?;
                attach(source, target)
            }
            (What::Flags, _) => {
                let target = open_in_root(root.as_fd(), path)?;
                restrict_mount(&target, below, false, true)?;
                restrict_mount(&target, there, false, false)
            }
            (What::Guests { is_directory }, _) => cover(root, path, is_directory, covers),
            // There is a source for each.
            (What::Shared { .. }, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn cover(
    root: &OwnedFd,
    path: &Path,
    make_directory: bool,
    covers: &mut Covers<'_>,
) -> io::Result<()> {
    let target = open_or_make_in_root(root.as_fd(), path, make_directory)?;
    let cover = covers.make(is_directory(&target)?)?;
    attach(cover, target)
}

/// What the container may not see.
fn mask(root: &OwnedFd, path: &Path, covers: &mut Covers<'_>) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let cover = covers.make(is_directory(&target)?)?;
    attach(cover, target)
}

fn make_read_only(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let tree = clone(&target)?;
    restrict_mount(&tree, libc::MOUNT_ATTR_RDONLY, true, true)?;
    attach(tree, target)
}

fn existing(root: &OwnedFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    match open_in_root(root.as_fd(), path) {
        Ok(target) => Ok(Some(target)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Empty directories and files that are mounted over what the host doesn't have.
struct Covers<'a> {
    /// The tmpfs that they are on.
    place: &'a Path,
    made: Vec<OwnedFd>,
}

impl Covers<'_> {
    /// Another, of which nothing is anywhere yet. It can be mounted on until all are sealed.
    fn make(&mut self, is_directory: bool) -> io::Result<OwnedFd> {
        let path = self.place.join(format!("cover{}", self.made.len()));
        match is_directory {
            true => fs::create_dir(&path)?,
            false => drop(File::create(&path)?),
        }
        let cover = clone(&open_path(&path)?)?;
        restrict_mount(&cover, 0, true, false)?;
        self.made.push(cover.try_clone()?);
        Ok(cover)
    }

    fn seal(&self) -> io::Result<()> {
        let mut made = self.made.iter();
        made.try_for_each(|cover| restrict_mount(cover, libc::MOUNT_ATTR_RDONLY, false, false))
    }
}

/// Where a container has proc file systems.
pub(super) fn proc_mounts(spec: &Spec) -> Vec<PathBuf> {
    let mounts = spec.mounts().iter().flatten();
    mounts
        .filter(|mount| mount.typ().as_deref() == Some("proc") && !is_bind(mount))
        .map(destination)
        .collect()
}

/// Makes a view the root of this process, with a proc file system of its own pid namespace where
/// the container has one, and leaves nothing else in its mount namespace.
pub(super) fn enter(view: &OwnedFd, proc: &[PathBuf], in_user: bool) -> io::Result<()> {
    let mut mounts = Vec::with_capacity(proc.len());
    for path in proc {
        match own_proc() {
            Ok(mount) => mounts.push((path, mount)),
            // The kernel shows a user namespace no more than the namespace around it has.
            Err(rustix::io::Errno::PERM) if in_user => {}
            Err(error) => return Err(error.into()),
        }
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(view, "", CWD, MOUNT_POINT, flags)?;
    chdir(MOUNT_POINT)?;
    let root = open_path(Path::new("."))?;
    for (path, mount) in mounts {
        attach(mount, open_in_root(root.as_fd(), path)?)?;
    }
    // The old root ends up on top of the new one, and is taken away from there.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// A proc file system that shows the processes of this pid namespace, and nothing of the kernel.
fn own_proc() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "subset", "pid")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn is_bind(mount: &Mount) -> bool {
    let options = mount.options().iter().flatten();
    let mut options = options.flat_map(|option| option.split(','));
    mount.typ().as_deref() == Some("bind") || options.any(|o| o == "bind" || o == "rbind")
}

/// Whether the guest has a mount's source by way of the share.
fn is_shared(mount: &Mount) -> bool {
    mount
        .source()
        .iter()
        .any(|source| source.starts_with(SHARE))
}

fn is_directory(file: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode).is_dir())
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// A copy of what is mounted at an open file and below, attached nowhere.
fn clone(file: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(file, "", flags)?)
}

fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> StandInError {
    let what = what.into();
    move |source| StandInError::View {
        what,
        source: source.into(),
    }
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
