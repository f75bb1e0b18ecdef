//! The directories that are shared with the guest: on a tmpfs in the sandbox process's
//! [home](super::home), the container's root on `rootfs`, and in `share` the sources of its bind mounts
//! on `mounts/N` and the programs of its hooks on `hooks/N`. No other process sees any of these
//! mounts, and they go with the sandbox process.

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, fstat},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::home::mount_tmpfs;
use crate::isolation::vm::{
    guest_spec::{Shared, Source, file_systems},
    stand_in::Trees,
};

/// Where the sources are.
const SOURCES: &str = "share";

/// What lies over mounts that a guest isn't served, where no guest sees it.
const COVERS: &str = "covers";

/// Why the share could not be assembled.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct ShareError {
    what: String,
    #[source]
    source: io::Error,
}

/// The share, mounted.
#[derive(Debug)]
pub(super) struct Share {
    path: PathBuf,
    make_root_read_only: bool,
    has_sources: bool,
    /// Copies, until somebody takes them.
    trees: Option<Trees>,
}

impl Share {
    /// Assembles the share at `path`, an empty directory in a mount namespace of this process's
    /// own.
    pub(super) fn assemble(path: PathBuf, shared: &Shared) -> Result<Self, ShareError> {
        mount_tmpfs(&path).map_err(failed("can't mount a tmpfs for what the guest shares"))?;
        let mut share = Self {
            path,
            make_root_read_only: shared.root_is_read_only && !shared.root_is_base,
            has_sources: !(shared.binds.is_empty() && shared.hooks.is_empty()),
            trees: None,
        };
        let trees = share.fill(shared)?;
        share.trees = Some(trees);
        Ok(share)
    }

    /// Binds everything to its place; gives copies of what is the container's, with the flags that
    /// the host has given them.
    fn fill(&self, shared: &Shared) -> Result<Trees, ShareError> {
        let root = Source {
            path: shared.root.clone(),
            is_directory: true,
            // An overlay can't be entered where something is mounted on its base.
            recursive: !shared.root_is_base,
            // In a root that isn't a base, mount points may have to be made first.
            read_only: shared.root_is_base,
            ids: None,
        };
        let covers = self.path.join(COVERS);
        bind(&root, &self.root(), &covers)?;
        for (name, sources) in [("mounts", &shared.binds), ("hooks", &shared.hooks)] {
            let directory = self.path.join(SOURCES).join(name);
            fs::create_dir_all(&directory).map_err(failed("can't make a directory on a tmpfs"))?;
            for (index, source) in sources.iter().enumerate() {
                bind(source, &directory.join(index.to_string()), &covers)?;
            }
        }
        let trees = self.copy(shared.binds.len())?;
        // From now on what the host mounts below these stays out. What a guest makes here is
        // nothing that this side would ever execute or use as a device.
        let inert = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
        set_attributes(&self.path, inert, libc::MS_PRIVATE, libc::AT_RECURSIVE)
            .map_err(failed("can't make the share private"))?;
        set_attributes(&self.path, libc::MOUNT_ATTR_RDONLY, 0, 0)
            .map_err(failed("can't make the share read-only"))?;
        Ok(trees)
    }

    fn copy(&self, binds: usize) -> Result<Trees, ShareError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let copy = |path: PathBuf| {
            let tree = open_tree(CWD, &path, flags);
            tree.map_err(failed("can't copy what is shared with the guest"))
        };
        let mounts = self.path.join(SOURCES).join("mounts");
        let binds = (0..binds).map(|index| copy(mounts.join(index.to_string())));
        Ok(Trees {
            root: copy(self.root())?,
            binds: binds.collect::<Result<_, _>>()?,
        })
    }

    /// The copies of the container's root and of the sources of its bind mounts, once.
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

    /// The container has been made, and with it the mount points that its root lacked: a root
    /// that is to be read-only is so on this side too from now on.
    pub(super) fn seal_root(&self) -> Result<(), ShareError> {
        if self.make_root_read_only {
            make_read_only(&self.root())?;
        }
        Ok(())
    }
}

/// Binds a source to its place, with what a guest isn't served covered by what is made in `covers`.
fn bind(source: &Source, target: &Path, covers: &Path) -> Result<(), ShareError> {
    let what = || format!("can't share {} with the guest", source.path.display());
    if source.is_directory {
        fs::create_dir(target).map_err(failed(what()))?;
    } else {
        File::create(target).map_err(failed(what()))?;
    }
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if source.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, &source.path, flags).map_err(failed(what()))?;
    // Which isn't what was looked at before, if somebody has put a link in its way since.
    let kind = FileType::from_raw_mode(fstat(&tree).map_err(failed(what()))?.st_mode);
    let is_as_before = match source.is_directory {
        true => kind.is_dir(),
        false => kind.is_file(),
    };
    if !is_as_before {
        return Err(failed(what())(io::ErrorKind::InvalidInput));
    }
    if let Some(kind) = file_systems::not_served_file(&tree).map_err(failed(what()))? {
        let problem = io::Error::other(format!("it is in a file system of the type {kind}"));
        return Err(failed(what())(problem));
    }
    if let Some(ids) = &source.ids {
        let what = format!("can't map the owners of {}", source.path.display());
        ids.apply(&tree).map_err(failed(what))?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, "", CWD, target, flags).map_err(failed(what()))?;
    if source.recursive && source.is_directory {
        file_systems::cover_below(target, covers).map_err(failed(what()))?;
    }
    if source.read_only {
        // All of it: the guest sees one file system and no mounts below it.
        make_read_only(target)?;
    }
    Ok(())
}

/// Makes a mount and those below it read-only.
fn make_read_only(path: &Path) -> Result<(), ShareError> {
    set_attributes(path, libc::MOUNT_ATTR_RDONLY, 0, libc::AT_RECURSIVE)
        .map_err(failed(format!("can't make {} read-only", path.display())))
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
    // SAFETY: path is a C string and attributes of the size that is given; neither is kept.
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

pub(super) fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> ShareError {
    let what = what.into();
    move |source| ShareError {
        what,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, thread};

    use super::*;
    use crate::isolation::vm::sandbox::home::Home;

    fn mounts() -> String {
        fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
    }

    /// Runs `test` as root in a thread whose mounts are its own from `assemble` on.
    fn with_share(shared: Shared, test: impl FnOnce(&Share) + Send + 'static) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root to mount: not tested");
            return;
        }
        let before = mounts();
        let point = tempfile::tempdir().unwrap();
        let path = point.path().to_owned();
        let thread = thread::spawn(move || {
            let home = Home::make(path.clone()).unwrap();
            let share = Share::assemble(home.share(), &shared).unwrap();
            test(&share);
            home.unmount().unwrap();
            assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        });
        thread.join().unwrap();
        assert_eq!(mounts(), before);
        point.close().unwrap();
    }

    fn host() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        for name in ["root", "data"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("file"), "a file").unwrap();
        let path = directory.path().to_owned();
        (directory, path)
    }

    fn source(path: PathBuf, read_only: bool) -> Source {
        Source {
            is_directory: path.is_dir(),
            path,
            recursive: true,
            read_only,
            ids: None,
        }
    }

    #[test]
    fn sources_are_where_the_guest_looks_for_them() {
        let (_directory, host) = host();
        let shared = Shared {
            root: host.join("root"),
            root_is_read_only: false,
            root_is_base: false,
            binds: vec![
                source(host.join("data"), false),
                source(host.join("file"), true),
            ],
            hooks: vec![source(host.join("file"), true)],
        };
        with_share(shared, move |share| {
            fs::write(share.root().join("new"), "").unwrap();
            let path = share.sources().unwrap();
            fs::write(path.join("mounts/0/new"), "").unwrap();
            assert!(host.join("root/new").exists() && host.join("data/new").exists());
            assert_eq!(fs::read_to_string(path.join("mounts/1")).unwrap(), "a file");
            assert!(fs::write(path.join("mounts/1"), "").is_err());
            assert_eq!(fs::read_to_string(path.join("hooks/0")).unwrap(), "a file");
            assert!(fs::write(path.join("new"), "").is_err());
            assert!(fs::write(path.join("mounts/new"), "").is_err());
            assert!(fs::write(share.root().join("../new"), "").is_err());
        });
    }

    #[test]
    fn nothing_stays_mounted_if_a_source_cannot_be_had() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("needs root to mount: not tested");
            return;
        }
        let (_directory, host) = host();
        symlink("/proc/self/status", host.join("link")).unwrap();
        symlink("data", host.join("data-link")).unwrap();
        // The others are what they were when they were looked at, and aren't any more.
        for (name, is_directory) in [
            ("gone", false),
            ("link", false),
            ("data-link", false),
            ("file", true),
        ] {
            let point = host.join("point");
            fs::create_dir(&point).unwrap();
            let shared = Shared {
                root: host.join("root"),
                root_is_read_only: false,
                root_is_base: false,
                binds: vec![Source {
                    is_directory,
                    ..source(host.join(name), false)
                }],
                hooks: vec![],
            };
            let test = move || {
                let home = Home::make(point.clone()).unwrap();
                let error = Share::assemble(home.share(), &shared).unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
                home.unmount().unwrap();
                // A mount point can't be removed.
                fs::remove_dir(&point).unwrap();
            };
            thread::spawn(test).join().unwrap();
        }
    }

    #[test]
    fn a_read_only_root_is_so_once_the_container_is_made() {
        let (_directory, host) = host();
        let shared = Shared {
            root: host.join("root"),
            root_is_read_only: true,
            root_is_base: false,
            binds: vec![],
            hooks: vec![],
        };
        with_share(shared, move |share| {
            assert_eq!(share.sources(), None);
            let root = share.root();
            fs::create_dir(root.join("mount-point")).unwrap();
            share.seal_root().unwrap();
            assert!(fs::write(root.join("new"), "").is_err());
            // The host isn't bound by it.
            fs::write(host.join("root/new"), "").unwrap();
        });
    }

    #[test]
    fn a_base_is_read_only_from_the_start_and_has_nothing_mounted_in_it() {
        let (_directory, host) = host();
        fs::create_dir(host.join("root/inner")).unwrap();
        let shared = Shared {
            root: host.join("root"),
            root_is_read_only: false,
            root_is_base: true,
            binds: vec![],
            hooks: vec![],
        };
        let inner = host.join("root/inner");
        with_share(shared, move |share| {
            let root = share.root();
            assert!(fs::write(root.join("new"), "").is_err());
            fs::write(inner.join("new"), "").unwrap();
            assert!(root.join("inner/new").exists());
        });
    }
}
