//! Where a comparison keeps its containers and their roots, and what removes it, whatever ends the
//! comparison.

use std::{
    cell::Cell,
    fs::{self, DirBuilder, File, Metadata},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{DirBuilderExt, MetadataExt, chown},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::wait::{WaitStatus, waitpid},
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

/// How often the heir looks for containers at most, how many times in a row there must be none, and how
/// long it waits in between.
const PASSES: u32 = 100;
const QUIET: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// A directory of the comparison's own. On the host it is root's alone: what a workload makes there, such
/// as set-user-id programs, is nothing for others. In a mount namespace that nobody else has, a tmpfs
/// covers it, through which a container's user may pass; the changes to roots are below it on the disk.
/// These mounts end with the last process there. A child process waits for the end of this one, however
/// it comes: it deletes the containers that are left, and the directory.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    heir: Pid,
    /// Tells the heir that this process has ended.
    link: UnixStream,
    /// Whether a root's changes are in memory, since the disk can't hold an overlay's.
    pub(super) is_in_memory: Cell<bool>,
}

impl Workspace {
    /// Makes the directory, for containers that this program manages.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn make(program: &Path) -> Result<Self, CompareError> {
        let temporary = std::env::temp_dir();
        let template = std::path::absolute(&temporary)
            .map_err(CompareError::workspace("find", temporary))?
            .join("nacre-compare-XXXXXX");
        if template.to_str().is_none() {
            return Err(CompareError::Config("the path in TMPDIR isn't UTF-8"));
        }
        let path = mkdtemp(&template)
            .map_err(|e| CompareError::workspace("make a directory", &template)(e.into()))?;
        let heir = cover(&path)
            .map_err(CompareError::workspace("mount a tmpfs over", &path))
            .and_then(|()| {
                // SAFETY: the caller's promise.
                let heir = unsafe { make_heir(program, &path) };
                heir.map_err(CompareError::host("make a process that cleans up"))
            });
        let (heir, link) = heir.inspect_err(|_| {
            let _ = remove(&path);
        })?;
        Ok(Self {
            path,
            heir,
            link,
            is_in_memory: Cell::new(false),
        })
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

    /// Makes a place for one run, over the bundle's root, with an empty file in it if something is to be
    /// mounted there.
    pub(super) fn place(
        &self,
        id: &str,
        root: &Path,
        mount_point: Option<&str>,
    ) -> Result<Place, CompareError> {
        let place = Place {
            path: self.path.join(id),
            disk: disk(&self.path).join(id),
        };
        if place.make(root, mount_point)? {
            self.is_in_memory.set(true);
        }
        Ok(place)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = self.link.shutdown(std::net::Shutdown::Both);
        let status = loop {
            match waitpid(self.heir, None) {
                Err(nix::errno::Errno::EINTR) => {}
                status => break status,
            }
        };
        if status != Ok(WaitStatus::Exited(self.heir, 0)) {
            let path = self.path.display();
            tracing::warn!("{path} couldn't be removed with all that is in it");
        }
    }
}

fn state(workspace: &Path) -> PathBuf {
    workspace.join("state")
}

/// Returns where the changes to roots are kept.
fn disk(workspace: &Path) -> PathBuf {
    workspace.join("disk")
}

/// Moves this process to a mount namespace of its own, in which a tmpfs covers the directory.
fn cover(path: &Path) -> io::Result<()> {
    fs::create_dir(disk(path))?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    // A descriptor of this namespace's, since only that can be mounted here.
    let on_disk = File::open(disk(path))?;
    mount_tmpfs(path)?;
    DirBuilder::new().mode(0o711).create(disk(path))?;
    let source = format!("/proc/self/fd/{}", on_disk.as_raw_fd());
    mount(
        Some(source.as_str()),
        &disk(path),
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )?;
    Ok(())
}

/// Mounts a tmpfs that others may pass through.
fn mount_tmpfs(on: &Path) -> io::Result<()> {
    let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
    Ok(mount(kind, on, kind, flags, Some("mode=711"))?)
}

/// Removes the directory, and what is mounted on it.
fn remove(path: &Path) -> io::Result<()> {
    // Nothing is, if it couldn't be.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    fs::remove_dir_all(path)
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
    delete_all(program, &state(workspace))?;
    remove(workspace)
}

/// Deletes the containers in a state directory, and those that a command is still making, which was told
/// to end when its parent did.
fn delete_all(program: &Path, state: &Path) -> io::Result<()> {
    let nacre = |words: &[&str]| {
        let mut command = Command::new(program);
        command.arg("--root").arg(state).args(words);
        command.stdin(Stdio::null()).stderr(Stdio::null()).output()
    };
    let mut quiet = 0;
    for _ in 0..PASSES {
        let listed = nacre(&["list", "--quiet"])?.stdout;
        let is_empty = !fs::read_dir(state).is_ok_and(|mut entries| entries.next().is_some());
        for id in String::from_utf8_lossy(&listed).lines() {
            nacre(&["delete", "--force", id])?;
        }
        quiet = if is_empty { quiet + 1 } else { 0 };
        if quiet == QUIET {
            break;
        }
        sleep(PAUSE);
    }
    Ok(())
}

/// What one run has of its own: a bundle's directory, and a root with the changes apart.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    disk: PathBuf,
}

impl Place {
    /// Makes it. Returns whether the changes are in memory.
    fn make(&self, root: &Path, mount_point: Option<&str>) -> Result<bool, CompareError> {
        let like = fs::metadata(root).map_err(CompareError::workspace("use the root", root))?;
        for directory in [&self.path, &self.root(), &self.disk] {
            let made = DirBuilder::new().mode(0o711).create(directory);
            made.map_err(CompareError::workspace("make", directory))?;
        }
        let layers = || {
            self.make_layers(&like, mount_point)
                .map_err(CompareError::workspace(
                    "make an overlay's layers in",
                    &self.disk,
                ))
        };
        layers()?;
        match self.mount_root(root) {
            // What the directory is on can't be an overlay's upper directory, if it is one itself.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                mount_tmpfs(&self.disk)
                    .map_err(CompareError::workspace("mount a tmpfs on", &self.disk))?;
                layers()?;
                let mounted = self.mount_root(root);
                mounted.map_err(CompareError::workspace("mount an overlay over", root))?;
                Ok(true)
            }
            mounted => {
                mounted.map_err(CompareError::workspace("mount an overlay over", root))?;
                Ok(false)
            }
        }
    }

    fn make_layers(&self, like: &Metadata, mount_point: Option<&str>) -> io::Result<()> {
        fs::create_dir(self.changes())?;
        fs::create_dir(self.work())?;
        // The root has the same owner and mode as the bundle's.
        fs::set_permissions(self.changes(), like.permissions())?;
        chown(self.changes(), Some(like.uid()), Some(like.gid()))?;
        if let Some(name) = mount_point {
            // The container's root may be nobody here.
            File::create(self.changes().join(name))?;
        }
        Ok(())
    }

    fn mount_root(&self, lower: &Path) -> io::Result<()> {
        // By descriptors, whose paths have no characters that mean something here.
        let layers = [
            ("lowerdir", File::open(lower)?),
            ("upperdir", File::open(self.changes())?),
            ("workdir", File::open(self.work())?),
        ];
        let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (name, layer) in &layers {
            let path = format!("/proc/self/fd/{}", layer.as_raw_fd());
            fsconfig_set_string(&overlay, *name, path)?;
        }
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

    fn work(&self) -> PathBuf {
        self.disk.join("work")
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
        self.disk.join("changes")
    }

    /// Writes the bundle's configuration.
    pub(super) fn configure(&self, config: &serde_json::Value) -> Result<(), CompareError> {
        let path = self.path.join("config.json");
        let written = File::create(&path).and_then(|mut file| write!(file, "{config}"));
        written.map_err(CompareError::workspace("write", path))
    }

    /// Removes it. What can't be removed is left to the heir, who says so.
    pub(super) fn remove(self) {
        for mounted in [&self.root(), &self.disk] {
            let _ = umount2(mounted, MntFlags::MNT_DETACH);
        }
        for directory in [&self.path, &self.disk] {
            let _ = fs::remove_dir_all(directory);
        }
    }
}
