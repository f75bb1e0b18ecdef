//! A container's folder, and the lock on it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nacre_agent::container::{Gate, config, is_ordinary_user};
use oci_spec::runtime::Spec;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::{Errno, fcntl_dupfd_cloexec},
    mount::{OpenTreeFlags, open_tree},
    process::{Resource, getrlimit},
};

use crate::id::Id;

use super::{error::StateError, record::Record};

const RECORD: &str = "state.json";
const NEW_RECORD: &str = "state.json.new";
const CONFIG: &str = "config.json";
const SHARE: &str = "share";

/// The name of the socket in the folder at which the container's process of nacre's, if it has one,
/// serves commands. Nobody but the folder's owner can reach it.
pub(crate) const SOCKET: &str = "sandbox";

/// How often taking a lock is tried, and at what interval: a command that looks at a container
/// holds its lock for only an instant.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Around this number, descriptors are above what a process has open before it serves a guest; and
/// they must start this far below its limit on descriptors.
const HIGH: u64 = 1024;
const LOW: u64 = 16;

/// A container's folder, locked for as long as this process, or one that it has forked since, holds
/// this.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The folder itself, with the lock (`flock`) that its open file description carries.
    lock: File,
}

/// The locked folder of an id that was claimed for a new container.
#[derive(Debug)]
pub(crate) enum Claim {
    New(Folder),
    /// Of a container that has ended and isn't kept, or of a command that was killed. What is in it
    /// and what it names are to be removed.
    Remains(Folder),
}

impl Folder {
    pub(super) fn claim(root: &Path, id: &Id) -> Result<Claim, StateError> {
        let path = root.join(id.as_str());
        for _ in 0..ATTEMPTS {
            let created = match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    fs::DirBuilder::new()
                        .recursive(true)
                        // Because of the sticky bit, it isn't cleaned up in an XDG_RUNTIME_DIR.
                        .mode(0o1700)
                        .create(root)
                        .map_err(|e| denied("can't create the state directory", root, e))?;
                    continue;
                }
                Err(e) => return Err(denied("can't create", &path, e)),
            };
            let locked = lock(&path).inspect_err(|_| {
                if created {
                    // This fails if somebody else has claimed it meanwhile.
                    let _ = fs::remove_dir(&path);
                }
            });
            match locked? {
                Lock::Held(lock) => {
                    let folder = Self { path, lock };
                    if created {
                        return Ok(Claim::New(folder));
                    }
                    return match folder.record()? {
                        Some(record) if record.is_kept() => Err(StateError::InUse(id.clone())),
                        _ => Ok(Claim::Remains(folder)),
                    };
                }
                Lock::Busy => std::thread::sleep(PAUSE),
                // Its owner has just removed it.
                Lock::Gone => {}
            }
        }
        Err(StateError::InUse(id.clone()))
    }

    pub(super) fn open(root: &Path, id: &Id) -> Result<Option<Self>, StateError> {
        let path = root.join(id.as_str());
        for _ in 0..ATTEMPTS {
            match lock(&path)? {
                Lock::Held(lock) => return Ok(Some(Self { path, lock })),
                Lock::Busy => std::thread::sleep(PAUSE),
                Lock::Gone => return Err(StateError::NoContainer(id.clone())),
            }
        }
        Ok(None)
    }

    /// Creates the empty directory in the folder where the sandbox process mounts the guest's
    /// share, in a mount namespace of its own.
    pub(crate) fn share(&self) -> Result<PathBuf, StateError> {
        let path = self.path.join(SHARE);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("can't create", &path)(e))
            }
            _ => Ok(path),
        }
    }

    /// Makes the lock the first thing that is released when this process ends, even by `SIGKILL`:
    /// the kernel closes a process's files from the highest descriptor down. So whoever learns of
    /// the end through a socket finds the lock free.
    pub(crate) fn unlock_first(&mut self) -> Result<(), StateError> {
        let failed = |source: Errno| failed("can't move the lock of", &self.path)(source.into());
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let high = most.min(HIGH).saturating_sub(LOW);
        self.lock = fcntl_dupfd_cloexec(&self.lock, high as i32)
            .map_err(failed)?
            .into();
        Ok(())
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads its record; `None` if it has none.
    pub(crate) fn record(&self) -> Result<Option<Record>, StateError> {
        read_record(&self.path)
    }

    /// Writes the record, replacing the old one. It isn't synced: no container outlives the memory
    /// that it is written to.
    pub(crate) fn write(&self, record: &Record) -> Result<(), StateError> {
        let new = self.path.join(NEW_RECORD);
        let json = serde_json::to_vec(record).map_err(|source| StateError::Record {
            path: new.clone(),
            source,
        })?;
        create(&new, &json)
            .and_then(|()| fs::rename(&new, self.path.join(RECORD)))
            .map_err(failed("can't write", &new))
    }

    /// Saves the container's `config.json`, for later commands. Nobody reads it before the
    /// container exists.
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(CONFIG);
        create(&path, json).map_err(failed("can't write", &path))
    }

    /// Reads the container's configuration, as in its bundle or as changed since.
    pub(crate) fn spec(&self) -> Result<Spec, StateError> {
        read_config(&self.path)
    }

    /// Unlocks the folder, even if a process forked since has the lock's descriptor too.
    pub(crate) fn release(self) -> Result<(), StateError> {
        flock(&self.lock, libc::LOCK_UN)
            .map(drop)
            .map_err(failed("can't unlock", &self.path))
    }

    /// Removes the folder. Only what nacre puts there is removed, by name: the sandbox process has
    /// the container's root file system mounted below this path.
    pub(crate) fn remove(self) -> Result<(), StateError> {
        // Most folders have no more than these. A folder without its record stands for nothing.
        self.remove_file(CONFIG)?;
        self.remove_file(RECORD)?;
        if fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        self.clear()?;
        self.remove_directory(&self.path)
    }

    /// Removes what nacre puts into the folder.
    pub(crate) fn clear(&self) -> Result<(), StateError> {
        for name in [CONFIG, NEW_RECORD, RECORD, SOCKET] {
            self.remove_file(name)?;
        }
        Gate::remove(&self.path).map_err(failed("can't remove the socket in", &self.path))?;
        self.remove_directory(&self.path.join(SHARE))
    }

    fn remove_file(&self, name: &str) -> Result<(), StateError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("can't remove", &path)(e)),
            _ => Ok(()),
        }
    }

    fn remove_directory(&self, path: &Path) -> Result<(), StateError> {
        match fs::remove_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("can't remove", path)(e)),
            _ => Ok(()),
        }
    }
}

/// Returns whether a container's folder is locked: its sandbox process is alive, or a command is
/// creating or removing it.
pub(super) fn is_locked(path: &Path) -> Result<bool, StateError> {
    let folder = match open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        folder => folder.map_err(failed("can't open", path))?,
    };
    Ok(!flock(&folder, libc::LOCK_SH).map_err(failed("can't lock", path))?)
}

fn create(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(content)
}

/// Reads a folder's record; `None` if it has none.
pub(super) fn read_record(folder: &Path) -> Result<Option<Record>, StateError> {
    let path = folder.join(RECORD);
    match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json)
            .map(Some)
            .map_err(|source| StateError::Record { path, source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("can't read", &path)(e)),
    }
}

/// Reads the configuration that [`Folder::write_config`] wrote.
pub(super) fn read_config(folder: &Path) -> Result<Spec, StateError> {
    let path = folder.join(CONFIG);
    let json = fs::read(&path).map_err(failed("can't read", &path))?;
    config::load(&json).map_err(|source| StateError::Config {
        path,
        source: source.into(),
    })
}

enum Lock {
    Held(File),
    Busy,
    Gone,
}

fn lock(path: &Path) -> Result<Lock, StateError> {
    let folder = match open_alone(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Lock::Gone),
        folder => folder.map_err(failed("can't open", path))?,
    };
    if !flock(&folder, libc::LOCK_EX).map_err(failed("can't lock", path))? {
        return Ok(Lock::Busy);
    }
    // It may have been removed and created anew between the two calls.
    let locked = folder.metadata().map_err(failed("can't stat", path))?;
    match fs::symlink_metadata(path) {
        Ok(now) if (now.dev(), now.ino()) == (locked.dev(), locked.ino()) => Ok(Lock::Held(folder)),
        Ok(_) => Ok(Lock::Gone),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Lock::Gone),
        Err(e) => Err(failed("can't stat", path)(e)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}

/// Opens it so that it gives no access to what is around it: through a mount of its own, which
/// isn't attached anywhere. Where that isn't possible, no process keeps it open: for an ordinary
/// user, and where a mount can't be copied.
fn open_alone(path: &Path) -> io::Result<File> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    match open_tree(CWD, path, flags) {
        Ok(tree) => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(openat(&tree, ".", flags, Mode::empty())?.into())
        }
        Err(Errno::PERM | Errno::INVAL) => open(path),
        Err(error) => Err(error.into()),
    }
}

/// Applies `how` to the lock without waiting; returns whether that was possible.
fn flock(file: &File, how: libc::c_int) -> io::Result<bool> {
    // SAFETY: flock takes no pointers; the descriptor is open.
    if unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        e => Err(e),
    }
}

/// As `failed`, but says what an ordinary user may lack.
fn denied(what: &'static str, path: &Path, source: io::Error) -> StateError {
    let what = if source.kind() == io::ErrorKind::PermissionDenied && is_ordinary_user() {
        "neither XDG_RUNTIME_DIR nor --root names a directory of this user's: can't create"
    } else {
        what
    };
    failed(what, path)(source)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io {
        what,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests;
