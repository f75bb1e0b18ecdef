//! Makes the scope of a container, and tells systemd of its limits.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process;

use oci_spec::runtime::LinuxResources;

use super::holder::Holder;
use super::properties;
use super::unit::Unit;
use super::units::Units;
use crate::container::cgroups::cgroup::Cgroup;
use crate::container::cgroups::devices::Access;
use crate::container::cgroups::layout::Layout;
use crate::container::cgroups::resources::{Settings, Versions};
use crate::container::cgroups::{CgroupError, path, v2};

/// Makes the scope of a container, and its cgroup in the hierarchies that systemd leaves out.
///
/// # Errors
///
/// [`CgroupError::Path`] for a `linux.cgroupsPath` that isn't of systemd's form;
/// [`CgroupError::Systemd`]; as [`Cgroup::create`].
///
/// # Safety
///
/// This process must have a single thread.
pub(in crate::container::cgroups) unsafe fn create(
    units: &dyn Units,
    path: Option<&Path>,
    id: &str,
    resources: Option<&LinuxResources>,
) -> Result<(Cgroup, Holder), CgroupError> {
    let unit = Unit::named(path, id, units.is_users())?;
    let default = LinuxResources::default();
    let resources = resources.unwrap_or(&default);
    let layout = Layout::find()?;
    let settings = Settings::new(resources, &Versions::of_layout(&layout))?;
    let access = Access::parse(resources)?;
    // SAFETY: the caller's promise.
    let holder = unsafe { Holder::start() }.map_err(|e| unit.failed(e.into()))?;
    let below = unit.start(units, holder.pid, &settings)?;

    let mut cgroup = Cgroup {
        unit: Some(unit.name.clone()),
        ..Cgroup::default()
    };
    let made = cgroup
        .adopt(&layout, &below)
        .and_then(|()| cgroup.limit(&settings))
        .and_then(|()| cgroup.restrict_devices(&access));
    match made {
        Ok(()) => Ok((cgroup, holder)),
        Err(error) => {
            // That empties the scope, so it ends.
            drop(holder);
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// Returns the path for the scope of a container whose configuration has none.
pub(in super::super) fn default_path(id: &str) -> PathBuf {
    PathBuf::from(format!(":nacre:{id}"))
}

/// Checks that a path names a scope.
///
/// # Errors
///
/// [`CgroupError::Path`] if it isn't of systemd's form.
pub(in super::super) fn check(path: &Path, id: &str) -> Result<(), CgroupError> {
    Unit::named(Some(path), id, false).map(drop)
}

impl Unit {
    /// Has systemd start it, with a process in it. Returns its cgroup, from the hierarchy's root.
    fn start(
        &self,
        units: &dyn Units,
        pid: i32,
        settings: &Settings,
    ) -> Result<PathBuf, CgroupError> {
        let mut properties = self.properties(pid);
        properties.extend(properties::from_settings(settings));
        let below = units.start_scope(&self.name, &properties);
        let below = below.map_err(|source| self.failed(source))?;
        path::checked(&below, &below)
    }

    fn failed(&self, source: Box<dyn Error + Send + Sync>) -> CgroupError {
        CgroupError::Systemd {
            unit: self.name.clone(),
            source,
        }
    }
}

impl Cgroup {
    /// Makes it a scope with this process, which systemd moves there.
    pub(in super::super) fn start_scope(
        &mut self,
        units: &dyn Units,
        path: Option<&Path>,
        id: &str,
        layout: &Layout,
        limits: &LinuxResources,
    ) -> Result<(), CgroupError> {
        let unit = Unit::named(path, id, units.is_users())?;
        let settings = Settings::new(limits, &Versions::of_layout(layout))?;
        let below = unit.start(units, process::id().cast_signed(), &settings)?;
        self.unit = Some(unit.name);
        self.adopt(layout, &below)
    }

    /// As [`Cgroup::update`], for a container that [is a systemd unit](Cgroup::unit): systemd is
    /// told of the limits too, so that it doesn't write the old ones when it next has a reason to.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::update`], and [`CgroupError::Systemd`].
    pub fn update_unit(
        &self,
        units: &dyn Units,
        resources: &LinuxResources,
    ) -> Result<(), CgroupError> {
        self.update(resources)?;
        self.tell_systemd(units, resources)
    }

    /// Tells systemd of changed limits, if it [is a systemd unit](Cgroup::unit).
    ///
    /// # Errors
    ///
    /// [`CgroupError::Systemd`].
    pub fn tell_systemd(
        &self,
        units: &dyn Units,
        resources: &LinuxResources,
    ) -> Result<(), CgroupError> {
        let Some(unit) = &self.unit else {
            return Ok(());
        };
        let properties = properties::from_settings(&self.settings(resources)?);
        if properties.is_empty() {
            return Ok(());
        }
        let set = units.set_properties(unit, &properties);
        set.map_err(|source| CgroupError::Systemd {
            unit: unit.clone(),
            source,
        })
    }

    /// Returns the systemd unit whose cgroup it is.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// Takes over the directories that systemd made, and makes the others.
    fn adopt(&mut self, layout: &Layout, path: &Path) -> Result<(), CgroupError> {
        if let Some(mount) = &layout.v2 {
            self.v2 = Some(v2::adopt(mount, path)?);
        }
        for hierarchy in &layout.v1 {
            self.v1.push(hierarchy.adopt(path)?);
        }
        Ok(())
    }
}
