//! Cgroups that systemd makes: a container is a *scope*, a unit of processes that systemd didn't
//! start itself ([its document on this](https://systemd.io/CGROUP_DELEGATION/)).
//!
//! How systemd is reached is the caller's business ([`Units`]): the engine itself speaks no D-Bus.
//! systemd makes the scope's cgroup with the limits that it knows, so that it won't undo them, and
//! delegates it; the engine then writes all limits itself. The scope ends by itself when nothing
//! is in it any more.

mod properties;
mod unit;

use std::error::Error;
use std::fmt::Debug;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use oci_spec::runtime::LinuxResources;

use super::devices::Access;
use super::layout::Layout;
use super::resources::{Settings, Versions};
use super::{Cgroup, CgroupError, path, v1, v2};
use crate::container::channel::{Channel, wait_until_readable};
use crate::container::child;

pub use properties::{Property, Value};
use unit::Unit;

/// How long the process that keeps a scope open may take to end, when it is let go.
const HOLDER_BOUND: Duration = Duration::from_secs(10);

/// systemd's manager of units: the system's, or a user's.
pub trait Units: Debug + Sync {
    /// Starts the transient scope `name`, with these properties, and waits until that is done.
    /// Returns its cgroup, from the hierarchy's root.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being started.
    fn start_scope(
        &self,
        name: &str,
        properties: &[Property],
    ) -> Result<PathBuf, Box<dyn Error + Send + Sync>>;

    /// Changes properties of a unit that runs.
    ///
    /// # Errors
    ///
    /// Whatever keeps them from being changed.
    fn set_properties(
        &self,
        name: &str,
        properties: &[Property],
    ) -> Result<(), Box<dyn Error + Send + Sync>>;

    /// Whether it is that of a user, and not the system's.
    fn is_users(&self) -> bool;
}

/// Makes the scope of a container, and its cgroup in the hierarchies that systemd leaves out.
///
/// # Errors
///
/// [`CgroupError::Path`] for a `linux.cgroupsPath` that isn't of systemd's form;
/// [`CgroupError::Systemd`]; as [`Cgroup::create`].
pub(super) fn create(
    units: &dyn Units,
    path: Option<&Path>,
    id: &str,
    resources: Option<&LinuxResources>,
) -> Result<(Cgroup, Holder), CgroupError> {
    let unit = Unit::of(path, id, units.is_users())?;
    let default = LinuxResources::default();
    let resources = resources.unwrap_or(&default);
    let layout = Layout::find()?;
    let settings = Settings::new(resources, &Versions::of(&layout))?;
    let access = Access::of(resources)?;
    let holder = Holder::start().map_err(|e| unit.failed(e.into()))?;
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
            // With that the scope is empty, and ends.
            drop(holder);
            let _ = cgroup.remove();
            Err(error)
        }
    }
}

/// What names the scope of a container whose configuration doesn't.
pub(super) fn default_path(id: &str) -> PathBuf {
    PathBuf::from(format!(":nacre:{id}"))
}

/// Whether a path names a scope.
///
/// # Errors
///
/// [`CgroupError::Path`] if it isn't of systemd's form.
pub(super) fn check(path: &Path, id: &str) -> Result<(), CgroupError> {
    Unit::of(Some(path), id, false).map(drop)
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
        properties.extend(properties::of(settings));
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
    /// Makes it a scope of this process, which systemd moves there.
    pub(super) fn start_scope(
        &mut self,
        units: &dyn Units,
        path: Option<&Path>,
        id: &str,
        layout: &Layout,
        limits: &LinuxResources,
    ) -> Result<(), CgroupError> {
        let unit = Unit::of(path, id, units.is_users())?;
        let settings = Settings::new(limits, &Versions::of(layout))?;
        let below = unit.start(units, process::id().cast_signed(), &settings)?;
        self.unit = Some(unit.name);
        self.adopt(layout, &below)
    }

    /// As [`Cgroup::update`], for a container that [is a unit of systemd's](Cgroup::unit): it is
    /// told of the limits too, lest it writes the old ones when it next has a reason to.
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

    /// Tells systemd of limits that were changed, if it [is a unit of systemd's](Cgroup::unit).
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
        let properties = properties::of(&self.settings(resources)?);
        if properties.is_empty() {
            return Ok(());
        }
        let set = units.set_properties(unit, &properties);
        set.map_err(|source| CgroupError::Systemd {
            unit: unit.clone(),
            source,
        })
    }

    /// The unit of systemd's that it is the cgroup of.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// Takes the directories that systemd made, and makes the others.
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

/// A process that does nothing but be in a scope until the container is: systemd makes none without
/// a process, and ends one that is empty.
#[derive(Debug)]
pub(in crate::container) struct Holder {
    pid: i32,
    pidfd: OwnedFd,
    /// It ends when this is closed, however this process ends.
    channel: Option<Channel>,
}

impl Holder {
    fn start() -> std::io::Result<Self> {
        // SAFETY: this process has a single thread, as the caller of `Container::create` has
        // promised.
        let child = unsafe {
            child::spawn(0, None, |channel| {
                let _ = channel.wait_for_release();
                0
            })
        }?;
        Ok(Holder {
            pid: child.pid.as_raw(),
            pidfd: child.pidfd,
            channel: Some(child.channel),
        })
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.channel.take());
        let pidfd = self.pidfd.as_fd();
        if matches!(wait_until_readable(pidfd, HOLDER_BOUND), Ok(true)) {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            let _ = waitid(Id::PIDFd(pidfd), flags);
        }
    }
}

impl v1::Hierarchy {
    /// The directory `path`: systemd's, if that made one in this hierarchy.
    fn adopt(&self, path: &Path) -> Result<v1::Member, CgroupError> {
        match self.mount.join(path).is_dir() {
            true => self.existing(path),
            false => self.make(None, path),
        }
    }
}
