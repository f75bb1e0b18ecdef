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

use nacre_agent::container::{
    Gate,
    cgroups::{Cgroup, CgroupError, cgroup_path},
    config,
};
use oci_spec::runtime::Spec;
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::{Errno, fcntl_dupfd_cloexec},
    mount::{OpenTreeFlags, open_tree},
    process::{Resource, getrlimit},
};

use crate::{
    id::Id,
    isolation::{hooks, vm::SOCKET},
};

use super::{By, Record, StateError, remains};

const RECORD: &str = "state.json";
const NEW_RECORD: &str = "state.json.new";
const CONFIG: &str = "config.json";
const SHARE: &str = "share";

/// How often a lock is tried for, and how long after one another: a command that looks at a
/// container holds its lock for an instant.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// About where descriptors are above what a process has open before it serves a guest, and how far
/// below its limit on descriptors they must begin.
const HIGH: u64 = 1024;
const LOW: u64 = 16;

/// A container's folder, locked for as long as this process or one that it forked since holds
/// this.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The folder itself, with the lock (`flock`) that its open file description carries.
    lock: File,
}

impl Folder {
    pub(super) fn claim(root: &Path, id: &Id) -> Result<Self, StateError> {
        let path = root.join(id.as_str());
        for _ in 0..ATTEMPTS {
            let created = match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    fs::DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(root)
                        .map_err(failed("can't create the state directory", root))?;
                    continue;
                }
                Err(e) => return Err(failed("can't create", &path)(e)),
            };
            match lock(&path)? {
                Lock::Held(lock) => {
                    let folder = Self { path, lock };
                    if !created {
                        folder.reclaim(id)?;
                    }
                    return Ok(folder);
                }
                Lock::Busy => std::thread::sleep(PAUSE),
                // Its owner removed it just now.
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

    /// The empty directory in the folder that the sandbox process mounts the guest's share
    /// on, in a mount namespace of its own.
    pub(crate) fn share(&self) -> Result<PathBuf, StateError> {
        let path = self.path.join(SHARE);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("can't create", &path)(e))
            }
            _ => Ok(path),
        }
    }

    /// Has the lock be free before anything else of this process's is closed by its end, even by
    /// `SIGKILL`: the kernel closes the files of a process from the highest descriptor down. So
    /// whoever hears of the end by a socket finds the lock free.
    pub(crate) fn unlock_first(&mut self) -> Result<(), StateError> {
        let failed = |source: Errno| failed("can't move the lock of", &self.path)(source.into());
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let high = most.min(HIGH).saturating_sub(LOW);
        self.lock = fcntl_dupfd_cloexec(&self.lock, high as i32)
            .map_err(failed)?
            .into();
        Ok(())
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its record; `None` if it has none.
    pub(crate) fn record(&self) -> Result<Option<Record>, StateError> {
        read_record(&self.path)
    }

    /// Writes the record, in place of what there was. It isn't synced: no container outlives
    /// the memory that it is written to.
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

    /// Keeps the container's `config.json`, for the commands that come later. Nobody reads it
    /// before the container is there.
    pub(crate) fn write_config(&self, json: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(CONFIG);
        create(&path, json).map_err(failed("can't write", &path))
    }

    /// Lets go of the folder, even if a process that was forked since has the lock's
    /// descriptor too.
    pub(crate) fn release(self) -> Result<(), StateError> {
        flock(&self.lock, libc::LOCK_UN)
            .map(drop)
            .map_err(failed("can't unlock", &self.path))
    }

    /// Takes over what a container has left that has ended, or a command that was killed.
    fn reclaim(&self, id: &Id) -> Result<(), StateError> {
        let record = self.record()?;
        if record.as_ref().is_some_and(Record::is_kept) {
            return Err(StateError::InUse(id.clone()));
        }
        self.remove_cgroup_of_remains(id)?;
        self.clear()?;
        if let Some(record) = &record {
            hooks::poststop(record);
        }
        Ok(())
    }

    /// Removes the cgroup that a VM's sandbox process has left as it was killed, with what it has
    /// left in the network, or the cgroup of a container on the host's kernel whose creation was
    /// cut short.
    pub(crate) fn remove_cgroup_of_remains(&self, id: &Id) -> Result<(), StateError> {
        match self.record()?.map(|record| record.by) {
            // It was removed, or never there.
            None => Ok(()),
            Some(By::Vm(vm)) => remains::remove(&vm, id),
            Some(By::Process(_)) => {
                self.remove_configured_cgroup(id)
                    .map_err(|source| StateError::Remains {
                        id: id.clone(),
                        source: source.into(),
                    })
            }
        }
    }

    /// Removes the cgroup of a container of which nothing but its configuration says which that
    /// was.
    fn remove_configured_cgroup(&self, id: &Id) -> Result<(), CgroupError> {
        // What isn't there in full was being written, before there was a cgroup.
        let Ok(spec) = read_config(&self.path) else {
            return Ok(());
        };
        let linux = spec.linux().as_ref();
        let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let path = path.filter(|path| !path.as_os_str().is_empty());
        Cgroup::remove_remains(&cgroup_path(path, id.as_str())?)
    }

    /// Removes the folder. Only what nacre puts there is removed, by name: the sandbox
    /// process has the container's root file system mounted below this path.
    pub(crate) fn remove(self) -> Result<(), StateError> {
        // Most have no more than these. Without its record a folder stands for nothing.
        self.remove_file(CONFIG)?;
        self.remove_file(RECORD)?;
        if fs::remove_dir(&self.path).is_ok() {
            return Ok(());
        }
        self.clear()?;
        self.remove_directory(&self.path)
    }

    fn clear(&self) -> Result<(), StateError> {
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

/// Whether a container's folder is locked: its sandbox process lives, or a command makes or
/// removes it just now.
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

/// A folder's record; `None` if it has none.
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

/// The configuration that [`Folder::write_config`] wrote.
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
    // It may have been removed, and made anew, between the two calls.
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

/// Opens it such that it is no way to what lies around it: by a mount of its own, which is attached
/// nowhere. An ordinary user, who can't do that, has no process that keeps it open, nor has anybody
/// where a mount can't be copied.
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

/// Whether the lock could be had, without waiting.
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

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError::Io {
        what,
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use nacre_agent::container::Identity;
    use nix::unistd::Pid;

    use super::super::record::{Process, Progress, Vm};
    use super::super::{Status, Store};
    use super::*;

    fn record(id: &Id, by: By) -> Record {
        Record {
            oci_version: "1.2.1".into(),
            id: id.to_string(),
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-01-01T00:00:00Z".into(),
            owner: 0,
            annotations: HashMap::new(),
            poststart: Vec::new(),
            poststop: Vec::new(),
            by,
        }
    }

    fn vm(progress: Progress, keep: bool) -> By {
        By::Vm(Vm {
            progress,
            keep,
            ..Vm::example()
        })
    }

    const STARTED: Progress = Progress::Started;

    fn store() -> (tempfile::TempDir, Store, Id) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(&root.path().join("run")).unwrap();
        (root, store, Id::new("a").unwrap())
    }

    #[test]
    fn an_id_has_one_owner() {
        let (_root, store, id) = store();
        let folder = store.claim(&id).unwrap();
        assert!(matches!(store.claim(&id), Err(StateError::InUse(_))));
        assert!(store.take(&id).unwrap().is_none());
        folder.write(&record(&id, vm(STARTED, false))).unwrap();
        assert_eq!(store.look(&id).unwrap().status, Status::Running);
        folder.remove().unwrap();
        assert!(matches!(store.look(&id), Err(StateError::NoContainer(_))));
        store.claim(&id).unwrap();
    }

    #[test]
    fn what_a_killed_process_left_is_reclaimed() {
        let (root, store, id) = store();
        let folder = store.claim(&id).unwrap();
        folder.share().unwrap();
        folder.write(&record(&id, vm(STARTED, false))).unwrap();
        drop(folder); // as the kernel does when the process is killed
        fs::write(root.path().join("run/a").join(NEW_RECORD), "half a rec").unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(matches!(store.look(&id), Err(StateError::NoContainer(_))));
        let folder = store.claim(&id).unwrap();
        assert_eq!(fs::read_dir(root.path().join("run/a")).unwrap().count(), 0);
        folder.remove().unwrap();
        assert_eq!(fs::read_dir(root.path().join("run")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_to_be_kept_is_kept() {
        let (_root, store, id) = store();
        let folder = store.claim(&id).unwrap();
        folder.write(&record(&id, vm(STARTED, true))).unwrap();
        drop(folder);
        assert_eq!(store.look(&id).unwrap().status, Status::Stopped);
        assert_eq!(store.list().unwrap().len(), 1);
        assert!(matches!(store.claim(&id), Err(StateError::InUse(_))));
        store.take(&id).unwrap().unwrap().remove().unwrap();
        assert!(matches!(store.take(&id), Err(StateError::NoContainer(_))));
    }

    #[test]
    fn what_was_never_made_in_full_is_not_kept() {
        let (_root, store, id) = store();
        let folder = store.claim(&id).unwrap();
        let by = vm(Progress::Creating, true);
        folder.write(&record(&id, by)).unwrap();
        assert_eq!(store.look(&id).unwrap().status, Status::Creating);
        drop(folder);
        assert_eq!(store.look(&id).unwrap().status, Status::Stopped);
        store.claim(&id).unwrap();
    }

    #[test]
    fn a_first_process_tells_how_its_container_stands() {
        let (root, store, id) = store();
        let status = || store.look(&id).unwrap().status;
        let by = |init| {
            By::Process(Process {
                init,
                cgroup: None,
                own_keyring: true,
            })
        };
        let folder = store.claim(&id).unwrap();
        folder.write(&record(&id, by(None))).unwrap();
        assert_eq!(status(), Status::Creating);
        let this = Identity::of(Pid::this()).unwrap();
        let gate = Gate::make(folder.path()).unwrap();
        folder.write(&record(&id, by(Some(this)))).unwrap();
        // Whoever was forked meanwhile has the lock's descriptor too.
        let forked = folder.lock.try_clone().unwrap();
        folder.release().unwrap();
        assert_eq!(status(), Status::Created);
        assert!(matches!(store.claim(&id), Err(StateError::InUse(_))));
        Gate::remove(&root.path().join("run/a")).unwrap();
        drop((gate, forked));
        assert_eq!(status(), Status::Running);
        let folder = store.take(&id).unwrap().unwrap();
        let gone = Identity {
            start_time: 1,
            ..this
        };
        folder.write(&record(&id, by(Some(gone)))).unwrap();
        assert_eq!(status(), Status::Stopped);
        folder.release().unwrap();
        assert!(matches!(store.claim(&id), Err(StateError::InUse(_))));
    }

    #[test]
    fn the_remains_of_a_creation_are_seen_and_reclaimed() {
        let (_root, store, id) = store();
        let folder = store.claim(&id).unwrap();
        let by = By::Process(Process {
            init: None,
            cgroup: None,
            own_keyring: true,
        });
        folder.write(&record(&id, by)).unwrap();
        folder.write_config(b"{}").unwrap();
        drop(Gate::make(folder.path()).unwrap());
        drop(folder);
        assert_eq!(store.look(&id).unwrap().status, Status::Stopped);
        store.claim(&id).unwrap().remove().unwrap();
    }

    #[test]
    fn what_cannot_be_read_does_not_hide_the_others() {
        let (root, store, id) = store();
        let folder = store.claim(&id).unwrap();
        folder.write(&record(&id, vm(STARTED, false))).unwrap();
        let run = root.path().join("run");
        fs::write(run.join("file"), "").unwrap();
        fs::create_dir(run.join("folder")).unwrap();
        fs::write(run.join("folder").join(RECORD), "{").unwrap();
        let broken = Id::new("folder").unwrap();
        assert!(matches!(
            store.look(&broken),
            Err(StateError::Record { .. })
        ));
        let listed = store.list().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].record.id, "a");
    }

    #[test]
    fn nothing_that_nacre_did_not_put_there_is_removed() {
        let (root, store, id) = store();
        let folder = store.claim(&id).unwrap();
        let share = folder.share().unwrap();
        fs::write(share.join("file"), "of the container's").unwrap();
        assert!(folder.remove().is_err());
        assert!(root.path().join("run/a/share/file").exists());
    }

    #[test]
    fn a_link_in_place_of_a_folder_is_not_followed() {
        let (root, store, id) = store();
        store.claim(&id).unwrap().remove().unwrap();
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.path().join("run/a")).unwrap();
        assert!(matches!(store.claim(&id), Err(StateError::Io { .. })));
    }
}
