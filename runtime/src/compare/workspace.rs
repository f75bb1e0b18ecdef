//! Where a comparison keeps its containers and their roots, and what removes it, whatever ends the
//! comparison.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::wait::waitpid,
    unistd::{ForkResult, Pid, fork, mkdtemp, setsid},
};
use rustix::{
    fs::CWD,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};

use super::error::CompareError;

/// A directory of the comparison's own. Its mounts are in a mount namespace that nobody else has, so
/// they end with the last of its processes. A child process waits for the end of this one, however
/// it comes: it deletes the containers that are left, and the directory.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    heir: Pid,
    /// Tells the heir that this process has ended.
    link: UnixStream,
}

impl Workspace {
    /// Makes the directory, for containers that this program manages.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn make(program: &Path) -> Result<Self, CompareError> {
        let template = std::env::temp_dir().join("nacre-compare-XXXXXX");
        let path = mkdtemp(&template)
            .map_err(|e| CompareError::workspace("make a directory", &template)(e.into()))?;
        // A container's user may be another one, who has to get through to its root.
        fs::set_permissions(&path, Permissions::from_mode(0o711))
            .map_err(CompareError::workspace("let others through", &path))?;
        // SAFETY: the caller's promise.
        let heir = unsafe { make_heir(program, &path) };
        let (heir, link) = heir.map_err(CompareError::host("make a process that cleans up"))?;
        let workspace = Self { path, heir, link };
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| {
                let private = MsFlags::MS_REC | MsFlags::MS_SLAVE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            })
            .map_err(|e| CompareError::host("make a mount namespace")(e.into()))?;
        Ok(workspace)
    }

    /// Returns where the state of its containers is kept.
    pub(super) fn state(&self) -> PathBuf {
        state(&self.path)
    }

    /// Returns where its commands may log.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Returns the path of a copy of this program's file, which a container may be shown.
    pub(super) fn copy(&self, program: &Path) -> Result<PathBuf, CompareError> {
        let copy = self.path.join("probe");
        let copied = fs::copy(program, &copy);
        copied.map_err(CompareError::workspace("copy nacre's program to", &copy))?;
        Ok(copy)
    }

    /// Makes a place for one run, over the bundle's root.
    pub(super) fn place(&self, id: &str, root: &Path) -> Result<Place, CompareError> {
        Place::make(self.path.join(id), root)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = self.link.shutdown(std::net::Shutdown::Both);
        while waitpid(self.heir, None) == Err(nix::errno::Errno::EINTR) {}
    }
}

fn state(workspace: &Path) -> PathBuf {
    workspace.join("state")
}

/// # Safety
///
/// This process must have a single thread.
unsafe fn make_heir(program: &Path, workspace: &Path) -> io::Result<(Pid, UnixStream)> {
    let (link, theirs) = UnixStream::pair()?;
    // SAFETY: the caller's promise.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok((child, link)),
        ForkResult::Child => {
            drop(link);
            let status = i32::from(inherit(theirs, program, workspace).is_err());
            // SAFETY: _exit ends the process without running anything of the parent's.
            unsafe { libc::_exit(status) }
        }
    }
}

/// Runs as the child process: waits for the parent's end, and removes what is left.
fn inherit(mut link: UnixStream, program: &Path, workspace: &Path) -> io::Result<()> {
    // A terminal's interrupt is for the process group that has it.
    setsid()?;
    // Nothing is ever sent.
    link.read_to_end(&mut Vec::new())?;
    let state = state(workspace);
    if state.exists() {
        let nacre = |words: &[&str]| {
            let mut command = Command::new(program);
            command.arg("--root").arg(&state).args(words);
            command.stdin(Stdio::null()).stderr(Stdio::null()).output()
        };
        let listed = nacre(&["list", "--quiet"])?.stdout;
        for id in String::from_utf8_lossy(&listed).lines() {
            nacre(&["delete", "--force", id])?;
        }
    }
    fs::remove_dir_all(workspace)
}

/// What one run has of its own: a bundle's directory, and a root with the changes apart.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
}

impl Place {
    fn make(path: PathBuf, root: &Path) -> Result<Self, CompareError> {
        for directory in [&path, &path.join("root"), &path.join("disk")] {
            let made = DirBuilder::new().mode(0o711).create(directory);
            made.map_err(CompareError::workspace("make", directory))?;
        }
        let place = Self { path };
        match place.mount_root(root) {
            // What the directory is on can't be an overlay's upper directory, if it is one itself.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let disk = place.path.join("disk");
                mount(
                    Some("tmpfs"),
                    &disk,
                    Some("tmpfs"),
                    MsFlags::empty(),
                    Some("mode=711"),
                )
                .map_err(|e| CompareError::workspace("mount a tmpfs on", disk)(e.into()))?;
                place.mount_root(root)
            }
            mounted => mounted,
        }
        .map_err(CompareError::workspace("mount an overlay over", root))?;
        Ok(place)
    }

    fn mount_root(&self, lower: &Path) -> io::Result<()> {
        for directory in [self.changes(), self.path.join("disk/work")] {
            if !directory.exists() {
                fs::create_dir(&directory)?;
            }
        }
        // The root has the same owner and mode as the bundle's.
        let like = fs::metadata(lower)?;
        fs::set_permissions(self.changes(), like.permissions())?;
        chown(self.changes(), Some(like.uid()), Some(like.gid()))?;
        // By a descriptor, whose path has neither of the characters that mean something here.
        let lower = File::open(lower)?;
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let lower_path = format!("/proc/self/fd/{}", lower.as_raw_fd());
        fsconfig_set_string(&overlay, "lowerdir", lower_path)?;
        fsconfig_set_string(&overlay, "upperdir", self.changes())?;
        fsconfig_set_string(&overlay, "workdir", self.path.join("disk/work"))?;
        fsconfig_create(&overlay)?;
        let mounted = fsmount(
            &overlay,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&mounted, "", CWD, self.root(), flags)?;
        Ok(())
    }

    /// Returns the bundle's directory.
    pub(super) fn bundle(&self) -> &Path {
        &self.path
    }

    /// Returns the container's root.
    pub(super) fn root(&self) -> PathBuf {
        self.path.join("root")
    }

    /// Returns where the changes to the root are.
    pub(super) fn changes(&self) -> PathBuf {
        self.path.join("disk/changes")
    }

    /// Writes the bundle's configuration.
    pub(super) fn configure(&self, config: &serde_json::Value) -> Result<(), CompareError> {
        let path = self.path.join("config.json");
        let written = File::create(&path).and_then(|mut file| write!(file, "{config}"));
        written.map_err(CompareError::workspace("write", path))
    }

    /// Removes it. What can't be removed is left to the heir.
    pub(super) fn remove(self) {
        for mounted in ["root", "disk"] {
            let _ = umount2(&self.path.join(mounted), MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}
