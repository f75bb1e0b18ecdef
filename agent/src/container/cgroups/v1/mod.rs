//! Version 1: hierarchies of one controller or some, each mounted by itself.

pub(super) mod blkio;
pub(super) mod cpu;
mod cpuset;
pub(super) mod devices;
pub(super) mod hugetlb;
pub(super) mod memory;
pub(super) mod network;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::CgroupError;
use super::directory::{Directory, each_below};
use super::layout::Own;
use super::setting::{Setting, keyed};

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

/// The hierarchy by which systemd knows what belongs to which unit. A container that wasn't in it
/// would end with the service that started it.
const SYSTEMD: &str = "name=systemd";

/// A mounted hierarchy.
#[derive(Debug)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    /// Which of its cgroups is mounted there, as a path without the leading slash.
    root: PathBuf,
    controllers: Vec<String>,
}

impl Hierarchy {
    /// What is mounted at `mount`, by the file system's options. `None` for a hierarchy that no
    /// container needs to be in.
    pub(super) fn new(mount: PathBuf, root: String, options: &str) -> Option<Self> {
        let controllers: Vec<String> = options
            .split(',')
            .filter(|option| CONTROLLERS.contains(option) || *option == SYSTEMD)
            .map(str::to_owned)
            .collect();
        let root = PathBuf::from(root.trim_start_matches('/'));
        (!controllers.is_empty()).then_some(Hierarchy {
            mount,
            root,
            controllers,
        })
    }

    pub(super) fn is_same(&self, other: &Hierarchy) -> bool {
        self.controllers == other.controllers
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Where a cgroup is below the mount: below the own one, or where it says.
    pub(super) fn below_mount(&self, own: Option<&Own>, path: &Path) -> PathBuf {
        let own = match (own, self.controllers.first()) {
            (Some(own), Some(controller)) => own.v1(controller),
            _ => PathBuf::new(),
        };
        // Where not all of the hierarchy is mounted, the own cgroup is below what is.
        own.strip_prefix(&self.root).unwrap_or(&own).join(path)
    }

    /// A directory in it, whether it is there or not.
    pub(super) fn at(&self, own: Option<&Own>, path: &Path) -> Member {
        let directory = self.mount.join(self.below_mount(own, path));
        self.member(Directory::existing(directory))
    }

    /// Makes a directory in it.
    pub(super) fn make(&self, own: Option<&Own>, path: &Path) -> Result<Member, CgroupError> {
        let prepare = |directory: &Path| self.prepare(directory);
        let directory = Directory::make(&self.mount, &self.below_mount(own, path), &prepare)?;
        if let Err(error) = self.prepare(&directory.path) {
            let _ = directory.remove(std::time::Instant::now());
            return Err(error);
        }
        Ok(self.member(directory))
    }

    /// Takes a directory that somebody else made.
    pub(super) fn existing(&self, path: &Path) -> Result<Member, CgroupError> {
        let directory = self.mount.join(path);
        let mut above: Vec<&Path> = directory.ancestors().collect();
        above.retain(|directory| directory.starts_with(&self.mount));
        above.iter().rev().try_for_each(|d| self.prepare(d))?;
        Ok(self.member(Directory::existing(directory)))
    }

    /// Makes it possible for a process to be in a cgroup, or in one below.
    fn prepare(&self, directory: &Path) -> Result<(), CgroupError> {
        match self.has("cpuset") {
            true => cpuset::inherit(&self.mount, directory),
            false => Ok(()),
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
pub(super) struct Member {
    pub(super) controllers: Vec<String>,
    #[serde(flatten)]
    pub(super) directory: Directory,
}

impl Member {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The settings, each with the directory to write it in.
pub(super) fn with_directories<'a>(
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

/// The counts of each cgroup's `memory.oom_control`, which are of that one only.
pub(super) fn oom_kills(directory: &Path) -> Result<u64, CgroupError> {
    let mut kills = 0;
    each_below(directory, &mut |directory| {
        let file = directory.join("memory.oom_control");
        let control = fs::read_to_string(&file).map_err(CgroupError::directory("read", &file))?;
        kills += keyed(&control, "oom_kill").unwrap_or(0);
        Ok(())
    })?;
    Ok(kills)
}

/// What a cgroup that a workload makes in cpuset needs before a process can be in it.
#[cfg(test)]
pub(super) fn inherit_cpus(mount: &Path, directory: &Path) {
    cpuset::inherit(mount, directory).unwrap();
}
