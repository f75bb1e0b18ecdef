//! Control groups, through the files of their file systems: version 2
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v2.html)), version 1
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v1/index.html)), or both on one
//! host, where each controller is in one of them.
//!
//! The OCI runtime spec describes limits in terms of version 1. Each controller's module, in
//! `v1/` and `v2/`, turns its part of `linux.resources` into settings, file by file, as runc
//! does; that is a pure function, so whatever can't be honoured is found before anything is
//! created. [`Cgroup`] then makes a directory in each hierarchy and writes them.

mod cpu_list;
mod devices;
mod directory;
mod error;
mod freezer;
mod layout;
mod manager;
mod oom;
mod path;
mod pids;
mod place;
mod processes;
mod rdma;
mod removal;
mod resources;
mod setting;
mod stats;
pub mod systemd;
mod update;
mod v1;
mod v2;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

pub(super) use cpu_list::parse as number_list;
pub use error::CgroupError;
pub use manager::Manager;
pub use oom::OomWatch;
pub use path::cgroup_path;
pub use place::{Joined, Place};
pub use processes::Placement;
pub use stats::Stats;
pub use update::Changed;

use devices::Access;
use directory::Directory;
use layout::{Layout, Own};
use resources::{Settings, Versions};

/// How long a process may take to be gone that ends because its creator has.
const REMAINS_BOUND: Duration = Duration::from_secs(2);

/// A container's cgroup: a directory in each hierarchy of the host. As a value it can be handed
/// to another process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// The one in cgroup2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v2: Option<Directory>,
    /// Those in the hierarchies of version 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    v1: Vec<v1::Member>,
    /// The unit of systemd's that it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

impl Cgroup {
    /// Checks everything about `resources` that can be checked without touching the system. What
    /// only one of the two versions can do is left to [`Cgroup::create`] to refuse.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Unsupported`] or [`CgroupError::Invalid`], naming the field.
    pub fn validate(resources: &LinuxResources) -> Result<(), CgroupError> {
        let on = |version: Versions| Settings::new(resources, &version).map(drop);
        on(Versions::all_v2()).or_else(|error| on(Versions::all_v1()).map_err(|_| error))?;
        Access::of(resources)?;
        Ok(())
    }

    /// Checks that cgroup v2 can honour `resources`, as the kernel of a guest has only that.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::validate`].
    pub fn validate_for_v2(resources: &LinuxResources) -> Result<(), CgroupError> {
        Settings::new(resources, &Versions::all_v2())?;
        Access::of(resources)?;
        Ok(())
    }

    /// Makes the cgroup `path` (see [`cgroup_path`]): an absolute one from the root of each
    /// hierarchy, a relative one from this process's own cgroup, with the limits of `resources`.
    /// Every controller there is gets enabled on the way down. Access to devices is what
    /// `linux.resources.devices` and the default devices allow; the last rule for a device has
    /// the say.
    ///
    /// Nothing is left behind on failure.
    ///
    /// # Errors
    ///
    /// As [`CgroupError`] tells; [`CgroupError::InUse`] if there is such a cgroup already and
    /// it isn't empty.
    pub fn create(path: &Path, resources: Option<&LinuxResources>) -> Result<Self, CgroupError> {
        Self::create_in(&Layout::find()?, path, resources)
    }

    fn create_in(
        layout: &Layout,
        path: &Path,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, CgroupError> {
        let relative = path::checked(path, path)?;
        let own = match path.is_absolute() {
            true => None,
            false => Some(Own::read()?),
        };
        let default = LinuxResources::default();
        let resources = resources.unwrap_or(&default);
        let settings = Settings::new(resources, &Versions::of(layout))?;
        let access = Access::of(resources)?;

        let mut cgroup = Cgroup {
            v2: None,
            v1: Vec::with_capacity(layout.v1.len()),
            unit: None,
        };
        let made = cgroup
            .make(layout, own.as_ref(), &relative)
            .and_then(|()| cgroup.limit(&settings))
            .and_then(|()| cgroup.restrict_devices(&access));
        match made {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // Nothing is in it yet. The first error is the one to tell.
                for directory in cgroup.directories() {
                    let _ = directory.remove(Instant::now());
                }
                Err(error)
            }
        }
    }

    /// Removes what [`Cgroup::create`] has left of the cgroup `path`, or a container in it whose
    /// creation was cut short: its directories, where no process is left in them. Those with
    /// processes belong to somebody else, and stay.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Path`], [`CgroupError::Directory`].
    pub fn remove_remains(path: &Path) -> Result<(), CgroupError> {
        let relative = path::checked(path, path)?;
        let own = match path.is_absolute() {
            true => None,
            false => Some(Own::read()?),
        };
        Self::at(&Layout::find()?, own.as_ref(), &relative)
            .remove_empty()
            .map(drop)
    }

    /// Removes it where no process is left in it: one that is about to end has 2 s for that.
    /// Where there are processes, they belong to somebody else, and it stays. What is gone
    /// already is fine. Returns whether all of it is gone.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`].
    pub fn remove_empty(&self) -> Result<bool, CgroupError> {
        let until = Instant::now() + REMAINS_BOUND;
        let mut gone = true;
        for directory in self.directories() {
            match directory.remove(until) {
                Err(CgroupError::Directory { source, .. })
                    if source.kind() == std::io::ErrorKind::ResourceBusy =>
                {
                    gone = false;
                }
                other => other?,
            }
        }
        Ok(gone)
    }

    /// The cgroup `path` of each hierarchy, whether it is there or not.
    fn at(layout: &Layout, own: Option<&Own>, path: &Path) -> Self {
        let v2 = layout.v2.as_ref().map(|mount| {
            let base = own.map_or_else(PathBuf::new, Own::v2_parent);
            Directory::existing(mount.join(base.join(path)))
        });
        let v1 = layout.v1.iter().map(|hierarchy| hierarchy.at(own, path));
        Cgroup {
            v2,
            v1: v1.collect(),
            unit: None,
        }
    }

    /// Makes the directories. What is made is in `self` even if another one can't be.
    fn make(&mut self, layout: &Layout, own: Option<&Own>, path: &Path) -> Result<(), CgroupError> {
        if let Some(mount) = &layout.v2 {
            let base = own.map_or_else(PathBuf::new, Own::v2_parent);
            self.v2 = Some(v2::make(mount, &base.join(path))?);
        }
        for hierarchy in &layout.v1 {
            self.v1.push(hierarchy.make(own, path)?);
        }
        Ok(())
    }

    fn limit(&self, settings: &Settings) -> Result<(), CgroupError> {
        let v2 = match &self.v2 {
            Some(directory) => v2::with_controllers(directory, &settings.v2)?,
            None => Vec::new(),
        };
        let v1 = v1::with_directories(&self.v1, &settings.v1)?;
        setting::apply_all(v1.into_iter().chain(v2))?;
        if let Some(directory) = &self.v2 {
            cpu_list::check_effective(&directory.path, &settings.v2)?;
        }
        Ok(())
    }

    /// Through the v1 controller, where the host has that.
    fn restrict_devices(&self, access: &Access) -> Result<(), CgroupError> {
        match (self.v1_with("devices"), &self.v2) {
            (Some(directory), _) => v1::devices::write(directory, access),
            (None, Some(directory)) => v2::devices::attach(&directory.path, access),
            (None, None) => Err(CgroupError::NoController {
                field: "devices".to_owned(),
                controller: "devices".to_owned(),
                parent: PathBuf::from("/sys/fs/cgroup"),
            }),
        }
    }

    /// Where the cgroup is in the file system: in cgroup2, or in the first hierarchy of version
    /// 1 where there is none.
    pub fn path(&self) -> &Path {
        match self.directories().next() {
            Some(directory) => &directory.path,
            None => Path::new(""),
        }
    }

    /// Where it is in each hierarchy; cgroup2 comes first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories().map(|directory| directory.path.as_path())
    }

    /// Where it is in cgroup2, if the host has that.
    pub fn v2_path(&self) -> Option<&Path> {
        Some(&self.v2.as_ref()?.path)
    }

    /// Whether it is in hierarchies of version 1.
    pub fn is_in_v1(&self) -> bool {
        !self.v1.is_empty()
    }

    /// Where it is in each hierarchy of version 1, with the controllers of that; `name=systemd`
    /// stands for systemd's, which has none.
    pub fn v1_paths(&self) -> impl Iterator<Item = (&[String], &Path)> {
        let members = self.v1.iter();
        members.map(|member| (&member.controllers[..], member.directory.path.as_path()))
    }

    /// How many of its processes, and of the cgroups below, were killed for want of memory.
    /// 0 where there is no memory controller.
    ///
    /// # Errors
    ///
    /// What reading the controller's files gives.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        match (self.v1_with("memory"), &self.v2) {
            (Some(directory), _) => v1::oom_kills(directory),
            (None, Some(directory)) => v2::oom_kills(&directory.path),
            (None, None) => Ok(0),
        }
    }

    /// All of its directories, cgroup2's first.
    fn directories(&self) -> impl Iterator<Item = &Directory> {
        let v1 = self.v1.iter().map(|member| &member.directory);
        self.v2.iter().chain(v1)
    }

    /// Its directory in the v1 hierarchy of a controller.
    fn v1_with(&self, controller: &str) -> Option<&Path> {
        let member = self.v1.iter().find(|member| member.has(controller))?;
        Some(&member.directory.path)
    }
}

#[cfg(test)]
mod host_tests;
#[cfg(test)]
mod tests;
