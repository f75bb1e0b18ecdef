//! Makes a container's cgroup, with its limits.

use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::runtime::LinuxResources;

use super::cgroup::Cgroup;
use super::devices::Access;
use super::directory::Directory;
use super::error::CgroupError;
use super::layout::Layout;
use super::own::Own;
use super::resources::{Settings, Versions};
use super::{cpuset, path, setting, v1, v2};

impl Cgroup {
    /// Checks everything about `resources` that can be checked without touching the system. What
    /// only one of the two versions can do is left to [`Cgroup::create`] to refuse.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Unsupported`] or [`CgroupError::Invalid`], naming the field.
    pub fn validate(resources: &LinuxResources) -> Result<(), CgroupError> {
        let on = |version: Versions| Settings::new(resources, &version).map(drop);
        on(Versions::V2).or_else(|error| on(Versions::V1).map_err(|_| error))?;
        Access::parse(resources)?;
        Ok(())
    }

    /// Checks that cgroup v2 can honour `resources`, as the kernel of a guest has only that.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::validate`].
    pub fn validate_for_v2(resources: &LinuxResources) -> Result<(), CgroupError> {
        Settings::new(resources, &Versions::V2)?;
        Access::parse(resources)?;
        Ok(())
    }

    /// Makes the cgroup `path` (see [`cgroup_path`]) with the limits of `resources`: an absolute
    /// path is from the root of each hierarchy, a relative one from this process's own cgroup.
    /// Every available controller gets enabled on the way down. Access to devices is what
    /// `linux.resources.devices` and the default devices allow; the last rule for a device decides.
    ///
    /// Nothing is left behind on failure.
    ///
    /// # Errors
    ///
    /// See [`CgroupError`]; [`CgroupError::InUse`] if there is such a cgroup already and it isn't
    /// empty.
    pub fn create(path: &Path, resources: Option<&LinuxResources>) -> Result<Self, CgroupError> {
        Self::create_in(&Layout::find()?, path, resources)
    }

    pub(super) fn create_in(
        layout: &Layout,
        path: &Path,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, CgroupError> {
        let relative = path::checked(path, path)?;
        let own = if path.is_absolute() {
            None
        } else {
            Some(Own::read()?)
        };
        let default = LinuxResources::default();
        let resources = resources.unwrap_or(&default);
        let settings = Settings::new(resources, &Versions::of_layout(layout))?;
        let access = Access::parse(resources)?;

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
                // Nothing is in it yet. The first error is the one to report.
                for directory in cgroup.directories() {
                    let _ = directory.remove(Instant::now());
                }
                Err(error)
            }
        }
    }

    /// Removes what [`Cgroup::create`], or a container whose creation was cut short, has left of
    /// the cgroup `path`: its directories without processes. Those with processes belong to
    /// somebody else, and stay.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Path`], [`CgroupError::Directory`].
    pub fn remove_remains(path: &Path) -> Result<(), CgroupError> {
        let relative = path::checked(path, path)?;
        let own = if path.is_absolute() {
            None
        } else {
            Some(Own::read()?)
        };
        Self::at(&Layout::find()?, own.as_ref(), &relative)
            .remove_empty()
            .map(drop)
    }

    /// Returns the cgroup `path` of each hierarchy, whether it exists or not.
    pub(super) fn at(layout: &Layout, own: Option<&Own>, path: &Path) -> Self {
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

    /// Makes the directories. Those that are made are in `self` even if another one fails.
    pub(super) fn make(
        &mut self,
        layout: &Layout,
        own: Option<&Own>,
        path: &Path,
    ) -> Result<(), CgroupError> {
        if let Some(mount) = &layout.v2 {
            let base = own.map_or_else(PathBuf::new, Own::v2_parent);
            self.v2 = Some(v2::make(mount, &base.join(path))?);
        }
        for hierarchy in &layout.v1 {
            self.v1.push(hierarchy.make(own, path)?);
        }
        Ok(())
    }

    pub(super) fn limit(&self, settings: &Settings) -> Result<(), CgroupError> {
        let v2 = match &self.v2 {
            Some(directory) => v2::with_controllers(directory, &settings.v2)?,
            None => Vec::new(),
        };
        let v1 = v1::with_directories(&self.v1, &settings.v1)?;
        setting::apply_all(v1.into_iter().chain(v2))?;
        if let Some(directory) = &self.v2 {
            cpuset::check_effective(&directory.path, &settings.v2)?;
        }
        Ok(())
    }

    /// Enforces `access` through the v1 controller, where the host has that, or else on version 2.
    pub(super) fn restrict_devices(&self, access: &Access) -> Result<(), CgroupError> {
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
}
