//! The hierarchies of version 1, each with one or more controllers.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::container::cgroups::directory::{Directory, each_below};
use crate::container::cgroups::error::CgroupError;
use crate::container::cgroups::own::Own;
use crate::container::cgroups::setting::{Setting, keyed};

/// The controllers of version 1.
const CONTROLLERS: [&str; 13] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// The hierarchy by which systemd knows which unit a process belongs to. A container outside of it
/// would end with the service that started it.
const SYSTEMD: &str = "name=systemd";

/// A mounted hierarchy.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    pub(crate) mount: PathBuf,
    /// The cgroup of the hierarchy that is mounted there, as a path without the leading slash.
    root: PathBuf,
    pub(crate) controllers: Vec<String>,
}

impl Hierarchy {
    /// Returns the hierarchy mounted at `mount`, by the file system's options. `None` for one that
    /// no container needs to be in.
    pub(crate) fn new(mount: PathBuf, root: &Path, options: &str) -> Option<Self> {
        let controllers: Vec<String> = options
            .split(',')
            .filter(|option| CONTROLLERS.contains(option) || *option == SYSTEMD)
            .map(str::to_owned)
            .collect();
        let root = root.strip_prefix("/").unwrap_or(root).to_owned();
        (!controllers.is_empty()).then_some(Hierarchy {
            mount,
            root,
            controllers,
        })
    }

    pub(crate) fn is_same(&self, other: &Hierarchy) -> bool {
        self.controllers == other.controllers
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Returns a cgroup's path below the mount: below the own cgroup, or where `path` says.
    pub(crate) fn below_mount(&self, own: Option<&Own>, path: &Path) -> PathBuf {
        let own = match (own, self.controllers.first()) {
            (Some(own), Some(controller)) => own.v1(controller),
            _ => PathBuf::new(),
        };
        // Where only a part of the hierarchy is mounted, the own cgroup is below that part.
        own.strip_prefix(&self.root).unwrap_or(&own).join(path)
    }

    /// Returns a directory in it, whether it exists or not.
    pub(crate) fn at(&self, own: Option<&Own>, path: &Path) -> Member {
        let directory = self.mount.join(self.below_mount(own, path));
        self.member(Directory::existing(directory))
    }

    /// Makes a directory in it.
    pub(crate) fn make(&self, own: Option<&Own>, path: &Path) -> Result<Member, CgroupError> {
        let prepare = |directory: &Path| self.prepare(directory);
        let directory = Directory::make(&self.mount, &self.below_mount(own, path), &prepare)?;
        if let Err(error) = self.prepare(&directory.path) {
            let _ = directory.remove(std::time::Instant::now());
            return Err(error);
        }
        Ok(self.member(directory))
    }

    /// Takes over a directory that somebody else made.
    pub(crate) fn existing(&self, path: &Path) -> Result<Member, CgroupError> {
        let directory = self.mount.join(path);
        let mut above: Vec<&Path> = directory.ancestors().collect();
        above.retain(|directory| directory.starts_with(&self.mount));
        above.iter().rev().try_for_each(|d| self.prepare(d))?;
        Ok(self.member(Directory::existing(directory)))
    }

    /// Returns the directory `path`: systemd's, if that made one in this hierarchy.
    pub(crate) fn adopt(&self, path: &Path) -> Result<Member, CgroupError> {
        if self.mount.join(path).is_dir() {
            self.existing(path)
        } else {
            self.make(None, path)
        }
    }

    /// Makes it possible for a process to be in a cgroup, or in one below.
    fn prepare(&self, directory: &Path) -> Result<(), CgroupError> {
        if self.has("cpuset") {
            super::cpuset::inherit(&self.mount, directory)
        } else {
            Ok(())
        }
    }

    fn member(&self, directory: Directory) -> Member {
        Member {
            controllers: self.controllers.clone(),
            directory,
        }
    }
}

/// A container's directory in one of the hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) controllers: Vec<String>,
    #[serde(flatten)]
    pub(crate) directory: Directory,
}

impl Member {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// Returns the settings, each with the directory to write it in.
pub(crate) fn with_directories<'a>(
    members: &'a [Member],
    settings: &'a [Setting],
) -> Result<Vec<(&'a Path, &'a Setting)>, CgroupError> {
    let place = |setting: &'a Setting| {
        let controller = setting.controller().unwrap_or_default();
        match members.iter().find(|member| member.has(controller)) {
            Some(member) => Ok((member.directory.path.as_path(), setting)),
            None => Err(CgroupError::NoController {
                field: setting.field.clone(),
                controller: controller.to_owned(),
                parent: PathBuf::from("/sys/fs/cgroup"),
            }),
        }
    };
    settings.iter().map(place).collect()
}

/// Adds up the counts of each cgroup's `memory.oom_control`, which are for that cgroup only.
pub(crate) fn oom_kills(directory: &Path) -> Result<u64, CgroupError> {
    let mut kills = 0;
    each_below(directory, &mut |directory| {
        let file = directory.join("memory.oom_control");
        let control = fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
        kills += keyed(&control, "oom_kill").unwrap_or(0);
        Ok(())
    })?;
    Ok(kills)
}

/// Prepares a cgroup that a workload makes in cpuset for having a process in it.
#[cfg(test)]
pub(crate) fn inherit_cpus(mount: &Path, directory: &Path) {
    super::cpuset::inherit(mount, directory).unwrap();
}
