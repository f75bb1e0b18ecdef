//! A cgroup's directory in one hierarchy.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::CgroupError;

/// How deep below a container's cgroup the workload's own cgroups may be nested to be found. The
/// kernel's path limit allows some 2000.
const MAX_DEPTH: usize = 256;

/// A directory that was made for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// How many of its ancestors had to be made for it.
    #[serde(default, skip_serializing_if = "is_zero")]
    made_above: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Directory {
    /// Returns a directory that existed already: nothing above it is ours to remove.
    pub(super) fn existing(path: PathBuf) -> Self {
        Directory {
            path,
            made_above: 0,
        }
    }

    /// Makes `path` below `base`, an existing cgroup. Calls `prepare` for each directory on the way
    /// before something is made in it.
    ///
    /// Replaces an empty one that exists already, so that no limit of its former use survives.
    /// Nothing is left behind on failure.
    ///
    /// # Errors
    ///
    /// [`CgroupError::InUse`] if there is one that isn't empty; [`CgroupError::Directory`].
    pub(super) fn make(
        base: &Path,
        path: &Path,
        prepare: &dyn Fn(&Path) -> Result<(), CgroupError>,
    ) -> Result<Self, CgroupError> {
        let mut directory = Directory::existing(base.join(path));
        // An existing parent may be removed just then, with another container that it was made for.
        for attempt in 0.. {
            match directory.try_make(base, path, prepare) {
                Ok(()) => break,
                Err(CgroupError::Directory { source, .. })
                    if source.kind() == ErrorKind::NotFound && attempt < 8 => {}
                Err(error) => {
                    directory.remove_above();
                    return Err(error);
                }
            }
        }
        Ok(directory)
    }

    fn try_make(
        &mut self,
        base: &Path,
        path: &Path,
        prepare: &dyn Fn(&Path) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let mut current = base.to_owned();
        for component in path {
            prepare(&current)?;
            current.push(component);
            let leaf = current == self.path;
            match make(&current) {
                Ok(()) if !leaf => self.made_above += 1,
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists && leaf => replace(&current)?,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(CgroupError::directory("make the cgroup", &current)(e)),
            }
        }
        Ok(())
    }

    /// Removes it, and its ancestors that were made for it, if that is possible at once.
    pub(super) fn vanish(&self) -> bool {
        let gone = match fs::remove_dir(&self.path) {
            Ok(()) => true,
            Err(e) => e.kind() == ErrorKind::NotFound,
        };
        if gone {
            self.remove_above();
        }
        gone
    }

    /// Removes it, the cgroups that the workload made below it, and its ancestors that were made
    /// for it, if nothing else is in them. What is gone already is fine.
    ///
    /// A process that has ended holds its cgroup until it is done exiting; this waits for that.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`], after `until` with `EBUSY`.
    pub(super) fn remove(&self, until: Instant) -> Result<(), CgroupError> {
        let mut pause = super::pause::Pause::new(until);
        let mut removed = fs::remove_dir(&self.path)
            .map_err(CgroupError::directory("remove the cgroup", &self.path));
        while let Err(error) = removed {
            match &error {
                CgroupError::Directory { source, .. } if source.kind() == ErrorKind::NotFound => {
                    break;
                }
                CgroupError::Directory { source, .. }
                    if source.kind() == ErrorKind::ResourceBusy && pause.rest() => {}
                _ => return Err(error),
            }
            removed = each_below(&self.path, &mut |directory| {
                fs::remove_dir(directory)
                    .map_err(CgroupError::directory("remove the cgroup", directory))
            });
        }
        self.remove_above();
        Ok(())
    }

    fn remove_above(&self) {
        for parent in self.path.ancestors().skip(1).take(self.made_above) {
            // Another container may be below it by now.
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
    }
}

/// Replaces an existing cgroup and those below it by a new one, unless there are processes in any
/// of them.
fn replace(directory: &Path) -> Result<(), CgroupError> {
    let in_use = || CgroupError::InUse {
        path: directory.to_owned(),
    };
    each_below(directory, &mut |cgroup| {
        if has_processes(cgroup) {
            Err(in_use())
        } else {
            Ok(())
        }
    })?;
    each_below(directory, &mut |cgroup| {
        fs::remove_dir(cgroup).map_err(|source| match source.kind() {
            ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty => in_use(),
            _ => CgroupError::directory("replace the cgroup", cgroup)(source),
        })
    })?;
    make(directory).map_err(CgroupError::directory("make the cgroup", directory))
}

/// Whether it may have processes: those of a threaded cgroup aren't listed.
fn has_processes(cgroup: &Path) -> bool {
    match fs::read(cgroup.join("cgroup.procs")) {
        Ok(processes) => !processes.is_empty(),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// Makes a directory that only its owner can change, whatever the caller's umask.
fn make(directory: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o755).create(directory)
}

/// Calls `f` for each cgroup below `directory`, and then for `directory` itself.
pub(super) fn each_below(
    directory: &Path,
    f: &mut dyn FnMut(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    each_to_depth(directory, MAX_DEPTH, f)
}

fn each_to_depth(
    directory: &Path,
    depth: usize,
    f: &mut dyn FnMut(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    if depth > 0 {
        let entries = fs::read_dir(directory).map_err(CgroupError::directory("list", directory))?;
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                each_to_depth(&entry.path(), depth - 1, f)?;
            }
        }
    }
    f(directory)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn until() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[test]
    fn what_was_made_is_removed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("a")).unwrap();
        let made = Directory::make(base.path(), Path::new("a/b/c/d"), &|_| Ok(())).unwrap();
        assert!(base.path().join("a/b/c/d").is_dir());
        made.remove(until()).unwrap();
        assert!(base.path().join("a").is_dir());
        assert!(!base.path().join("a/b").exists());
        // Again: it is fine that it is gone.
        made.remove(until()).unwrap();
    }

    #[test]
    fn another_s_neighbour_stays() {
        let base = tempfile::tempdir().unwrap();
        let first = Directory::make(base.path(), Path::new("a/b"), &|_| Ok(())).unwrap();
        let second = Directory::make(base.path(), Path::new("a/c"), &|_| Ok(())).unwrap();
        first.remove(until()).unwrap();
        assert!(base.path().join("a/c").is_dir());
        second.remove(until()).unwrap();
    }

    #[test]
    fn failing_on_the_way_leaves_nothing() {
        let base = tempfile::tempdir().unwrap();
        let prepare = |directory: &Path| {
            if directory.ends_with("b") {
                Err(CgroupError::NotMounted)
            } else {
                Ok(())
            }
        };
        Directory::make(base.path(), Path::new("a/b/c"), &prepare).unwrap_err();
        assert!(!base.path().join("a").exists());
    }
}
