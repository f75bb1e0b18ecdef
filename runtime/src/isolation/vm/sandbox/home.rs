//! Where the sandbox process lives: namespaces of its own, and in the end a root of its own that
//! holds nothing but what it works with.
//!
//! That root is a tmpfs that is mounted, in this process's mount namespace alone, on a directory of
//! the container's folder. The share is assembled on it while this process can still reach the
//! host's files to take the sources from. Before anybody is told of the container, the tmpfs
//! becomes this process's root and the host is unmounted: what is used by its path later is at the
//! same path.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nacre_agent::container::outside::{Extent, Peers, restrict_mount};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{chdir, pivot_root},
};
use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use crate::isolation::vm::error::{ShareError, share_failed};

/// Devices of the host that a machine opens again as its network changes.
const DEVICES: [&str; 1] = ["/dev/net/tun"];

/// This process's home.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
}

impl Home {
    /// Moves this process into namespaces of its own (mount, IPC, UTS), and mounts its future root
    /// at `path`. The process must have a single thread.
    pub(super) fn make(path: PathBuf) -> Result<Self, ShareError> {
        let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
        unshare(flags).map_err(share_failed("can't make namespaces"))?;
        // The host sees none of the mounts below; what the host unmounts is unmounted here too, so
        // that a container doesn't keep it busy.
        let nothing = None::<&str>;
        let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        mount(nothing, "/", nothing, flags, nothing).map_err(share_failed(
            "can't make this mount namespace's mounts its own",
        ))?;
        let home = Self { path };
        let what = "can't mount a tmpfs for the sandbox process";
        mount_tmpfs(&home.path).map_err(share_failed(what))?;
        let prepared = mount(nothing, &home.path, nothing, MsFlags::MS_PRIVATE, nothing)
            .map_err(io::Error::from)
            .and_then(|()| fs::create_dir(home.share()))
            .and_then(|()| fs::create_dir(home.view()))
            .map_err(share_failed(what));
        match prepared {
            Ok(()) => Ok(home),
            Err(error) => {
                let _ = home.unmount();
                Err(error)
            }
        }
    }

    /// The empty directory that the share is assembled on.
    pub(super) fn share(&self) -> PathBuf {
        self.path.join("share")
    }

    /// An empty directory for the container's view to be assembled on.
    pub(super) fn view(&self) -> PathBuf {
        self.path.join("view")
    }

    /// Makes the home this process's root, with the share where it was, and the container's
    /// `folder` and the directories of `cgroup` at their paths. From then on no path reaches
    /// anything else of the host's.
    pub(super) fn leave_host<'a>(
        &self,
        folder: &'a Path,
        cgroup: impl Iterator<Item = &'a Path>,
    ) -> Result<(), ShareError> {
        let failed = || share_failed::<io::Error>("can't leave the host's file systems");
        self.gather(folder, cgroup).map_err(failed())?;
        let enter = || -> nix::Result<()> {
            chdir(&self.path)?;
            // The old root ends up on top of the new one, and is unmounted from there.
            pivot_root(".", ".")?;
            umount2(".", MntFlags::MNT_DETACH)?;
            chdir("/")
        };
        enter().map_err(|error| failed()(error.into()))
    }

    fn gather<'a>(
        &self,
        folder: &'a Path,
        cgroup: impl Iterator<Item = &'a Path>,
    ) -> io::Result<()> {
        for directory in [folder].into_iter().chain(cgroup) {
            let tree = copy(directory)?;
            let place = self.inside(directory);
            fs::create_dir_all(&place)?;
            attach(&tree, &place)?;
        }
        for device in DEVICES.map(Path::new) {
            let tree = match copy(device) {
                // A VM without a network has no use for it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let place = self.inside(device);
            fs::create_dir_all(place.parent().unwrap_or(&self.path))?;
            File::create(&place)?;
            attach(&tree, &place)?;
        }
        let share = open_tree(CWD, self.share(), OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        attach(&share, &self.inside(&self.path))?;
        for used in [self.share(), self.view()] {
            fs::remove_dir(used)?;
        }
        Ok(mount(
            None::<&str>,
            &self.path,
            None::<&str>,
            MsFlags::MS_REMOUNT
                | MsFlags::MS_BIND
                | MsFlags::MS_RDONLY
                | MsFlags::MS_NOSUID
                | MsFlags::MS_NODEV
                | MsFlags::MS_NOEXEC,
            None::<&str>,
        )?)
    }

    /// Returns where a host's path is before the home is the root.
    fn inside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Unmounts what is mounted on the directory, so that the directory can be removed.
    pub(super) fn unmount(self) -> Result<(), ShareError> {
        umount2(&self.path, MntFlags::MNT_DETACH).map_err(share_failed("can't unmount the share"))
    }
}

/// Mounts an empty tmpfs to make directories on.
pub(super) fn mount_tmpfs(path: &Path) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("mode=0755,size=1m");
    mount(Some("nacre"), path, Some("tmpfs"), flags, options)
}

/// Copies the mount at a path; the copy is attached nowhere and is nobody's peer.
fn copy(path: &Path) -> io::Result<impl AsFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, path, flags)?;
    restrict_mount(&tree, 0, Peers::Leave, Extent::Mount)?;
    Ok(tree)
}

fn attach(tree: impl AsFd, place: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(tree, "", CWD, place, flags)?)
}
