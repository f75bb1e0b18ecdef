//! The root of a container's stand-in: what the container has, as far as that is on the host.
//!
//! It is the container's root with the sources of its bind mounts where they are mounted, in the
//! configuration's order and with its flags. What is mounted in the guest alone (a tmpfs, a
//! volatile root) can't be seen from here. Where that keeps files, an unreadable directory covers
//! the place, and elsewhere an empty one that can't be written to, so that nobody who looks there
//! finds or changes what lies below, or takes the place of such files for empty.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nacre_agent::{
    container::outside::{
        Extent, Forbidden, Peers, bound_extent, destination, open_in_root, open_or_make_in_root,
        restrict_mount,
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

use crate::isolation::vm::guest_spec::Shared;

use super::error::StandInError;

/// The attributes that keep the container's files harmless on this side.
const INERT: u64 = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID;

/// The directory entry that stands for those that only the guest has.
const UNREACHABLE: &str = ".in-the-guest-only";

/// Where the view is mounted before it is the root. Every host has this directory.
const MOUNT_POINT: &str = "/proc";

/// Copies of the mounts that are shared with the guest, attached nowhere.
#[derive(Debug)]
pub(in crate::isolation::vm) struct Trees {
    pub(in crate::isolation::vm) root: OwnedFd,
    /// In the order of `Shared::binds`.
    pub(in crate::isolation::vm) binds: Vec<OwnedFd>,
}

/// A container's root and mounts, as they are to be seen.
#[derive(Debug)]
pub(in crate::isolation::vm) struct View {
    mounts: Vec<Placed>,
    masked: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
    root_is_read_only: bool,
    /// Whether what the container writes to its root is in the guest.
    root_is_guests: bool,
}

/// A mount, or other flags, at a destination.
#[derive(Debug)]
struct Placed {
    destination: PathBuf,
    forbidden: Forbidden,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The shared source of this number.
    Shared { number: usize },
    /// Something of the guest's, on a directory or a file.
    Guests {
        is_directory: bool,
        keeps_files: bool,
    },
    /// Other flags for what is already there.
    Flags,
}

impl View {
    /// Returns the view of a container with this configuration, as its guest has it.
    pub(in crate::isolation::vm) fn new(spec: &Spec, shared: &Shared) -> Self {
        let linux = spec.linux().clone().unwrap_or_default();
        let paths = |paths: &Option<Vec<String>>| {
            let paths = paths.iter().flatten();
            paths.map(PathBuf::from).collect()
        };
        let mut sources = 0..shared.binds.len();
        let mounts = spec.mounts().iter().flatten().map(|mount| {
            let options = mount.options().as_deref().unwrap_or_default();
            let forbidden = Forbidden::by(options);
            let what = match bound_extent(mount).is_some() {
                _ if forbidden.remount => What::Flags,
                true if is_shared(mount) => {
                    let number = sources.next()?;
                    What::Shared { number }
                }
                is_device => What::Guests {
                    is_directory: !is_device,
                    keeps_files: matches!(mount.typ().as_deref(), Some("tmpfs" | "overlay")),
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

    /// Assembles the view on the empty directory `place`, which is left as it was. The guest has
    /// made the container already, and so the mount points exist.
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
            unreachable: Vec::new(),
        };
        let root = if self.root_is_guests {
            covers.make_unreachable(true)
        } else {
            Ok(trees.root)
        };
        let assembled = root.and_then(|root| {
            restrict_mount(&root, INERT, Peers::Leave, Extent::Tree)?;
            let point = place.join("root");
            fs::create_dir(&point)?;
            attach(&root, open_path(&point)?)?;
            Ok(root)
        });
        let root = assembled.map_err(failed("the container's root"))?;
        let mut binds: Vec<_> = trees.binds.into_iter().map(Some).collect();
        for placed in &self.mounts {
            let source = match placed.what {
                What::Shared { number } => binds.get_mut(number).and_then(Option::take),
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
                restrict_mount(&root, libc::MOUNT_ATTR_RDONLY, Peers::Keep, Extent::Mount)?;
            }
            let view = clone(&root)?;
            restrict_mount(&view, 0, Peers::Leave, Extent::Tree)?;
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
            (What::Shared { .. }, Some(source)) => {
                let target = open_or_make_in_root(root.as_fd(), path, is_directory(&source)?)?;
                restrict_mount(&source, INERT | below, Peers::Leave, Extent::Tree)?;
                restrict_mount(&source, there, Peers::Keep, Extent::Mount)?;
                attach(source, target)
            }
            (What::Flags, _) => {
                let target = open_in_root(root.as_fd(), path)?;
                restrict_mount(&target, below, Peers::Keep, Extent::Tree)?;
                restrict_mount(&target, there, Peers::Keep, Extent::Mount)
            }
            (
                What::Guests {
                    is_directory,
                    keeps_files,
                },
                _,
            ) => {
                let target = open_or_make_in_root(root.as_fd(), path, is_directory)?;
                covers.cover(target, keeps_files)
            }
            // There is a source for each number.
            (What::Shared { .. }, None) => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Covers what the container may not see.
fn mask(root: &OwnedFd, path: &Path, covers: &mut Covers<'_>) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    covers.cover(target, false)
}

fn make_read_only(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let tree = clone(&target)?;
    restrict_mount(&tree, libc::MOUNT_ATTR_RDONLY, Peers::Leave, Extent::Tree)?;
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

/// Empty directories and files to mount over what the host doesn't have.
struct Covers<'a> {
    /// The tmpfs that they are on.
    place: &'a Path,
    made: Vec<OwnedFd>,
    /// The directories that cover files that only the guest has.
    unreachable: Vec<OwnedFd>,
}

impl Covers<'_> {
    /// Makes another cover, not attached anywhere yet. It can be mounted on until all are sealed.
    fn make(&mut self, is_directory: bool) -> io::Result<OwnedFd> {
        let path = self.place.join(format!("cover{}", self.made.len()));
        if is_directory {
            fs::create_dir(&path)?
        } else {
            drop(File::create(&path)?)
        }
        let cover = clone(&open_path(&path)?)?;
        restrict_mount(&cover, 0, Peers::Leave, Extent::Mount)?;
        self.made.push(cover.try_clone()?);
        Ok(cover)
    }

    /// Covers `target`, which may be in the place of files that only the guest has.
    fn cover(&mut self, target: OwnedFd, keeps_files: bool) -> io::Result<()> {
        let is_directory = is_directory(&target)?;
        let cover = if keeps_files {
            self.make_unreachable(is_directory)?
        } else {
            self.make(is_directory)?
        };
        attach(cover, target)
    }

    /// Makes a cover for files that only the guest has.
    fn make_unreachable(&mut self, is_directory: bool) -> io::Result<OwnedFd> {
        let cover = self.make(is_directory)?;
        if is_directory {
            self.unreachable.push(cover.try_clone()?);
        }
        Ok(cover)
    }

    fn seal(&self) -> io::Result<()> {
        for directory in &self.unreachable {
            put_out_of_reach(directory)?;
        }
        let mut made = self.made.iter();
        made.try_for_each(|cover| {
            restrict_mount(cover, libc::MOUNT_ATTR_RDONLY, Peers::Keep, Extent::Mount)
        })
    }
}

/// Makes reading a directory fail. What is mounted in it stays within reach: in that case one entry
/// of it can't be read.
fn put_out_of_reach(directory: &OwnedFd) -> io::Result<()> {
    let Some(mount) = unreachable_mount()? else {
        return Ok(());
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    if fs::read_dir(&path)?.next().is_none() {
        return attach(mount, directory);
    }
    let entry = path.join(UNREACHABLE);
    fs::create_dir(&entry)?;
    attach(mount, open_path(&entry)?)
}

/// Makes a file system whose every use fails with `ENOTCONN`: one whose server is gone (fuse(4)).
/// Returns `None` where the kernel has no FUSE.
fn unreachable_mount() -> io::Result<Option<OwnedFd>> {
    let server = match File::options().read(true).write(true).open("/dev/fuse") {
        Ok(server) => server,
        Err(_) => return Ok(None),
    };
    let number = server.as_raw_fd().to_string();
    let parameters = [
        ("fd", number.as_str()),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ];
    match inert_mount("fuse", &parameters) {
        Ok(mount) => Ok(Some(mount)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a file system in which nothing can be written, executed or used as a device, attached
/// nowhere.
fn inert_mount(kind: &str, parameters: &[(&str, &str)]) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in parameters {
        fsconfig_set_string(&context, *name, *value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Returns where a container has proc file systems.
pub(super) fn proc_mounts(spec: &Spec) -> Vec<PathBuf> {
    let mounts = spec.mounts().iter().flatten();
    mounts
        .filter(|mount| mount.typ().as_deref() == Some("proc") && bound_extent(mount).is_none())
        .map(destination)
        .collect()
}

/// Makes a view this process's root, with a proc file system of its own pid namespace where the
/// container has one, and leaves nothing else in its mount namespace.
pub(super) fn enter(view: &OwnedFd, proc: &[PathBuf], in_user: bool) -> io::Result<()> {
    let mut mounts = Vec::with_capacity(proc.len());
    for path in proc {
        match own_proc() {
            Ok(mount) => mounts.push((path, mount)),
            // In a user namespace the kernel shows no more of proc than the namespace around it
            // has.
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
    // The old root ends up on top of the new one, and is unmounted from there.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

/// Makes a proc file system that shows the processes of this pid namespace, and nothing of the
/// kernel.
fn own_proc() -> rustix::io::Result<OwnedFd> {
    inert_mount("proc", &[("subset", "pid")])
}

/// Whether the guest gets a mount's source through the share.
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

/// Copies what is mounted at an open file and below; the copy is attached nowhere.
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
