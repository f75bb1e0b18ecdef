//! Puts a process of the host that runs the container elsewhere, the sandbox process of a VM, into
//! the container's cgroup.

use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::runtime::LinuxResources;

use super::error::is_refusal;
use super::layout::Layout;
use super::own::Own;
use super::path::{cgroup_path, checked};
use super::setting::write;
use super::{Cgroup, CgroupError, Manager, systemd};

/// The place of a container's cgroup, which may not exist yet.
#[derive(Debug)]
pub struct Place {
    layout: Layout,
    /// The cgroups that this process is in.
    own: Own,
    /// From the own cgroup, or from the root if `from_root`.
    path: PathBuf,
    from_root: bool,
    /// The path in the configuration.
    named: Option<PathBuf>,
    id: String,
}

impl Place {
    /// Finds the place that `linux.cgroupsPath` names, or one of the container's id. `None` if this
    /// host has no cgroup file system, and none was asked for.
    ///
    /// # Errors
    ///
    /// As [`cgroup_path`]; [`CgroupError::NotMounted`]; the errors of reading `/proc`.
    pub fn find(cgroups_path: Option<&Path>, id: &str) -> Result<Option<Self>, CgroupError> {
        let named = cgroups_path.filter(|path| !path.as_os_str().is_empty());
        Self::at(named, id)
    }

    /// As [`Place::find`], where systemd is to make the cgroup, which always counts as asked for.
    ///
    /// # Errors
    ///
    /// As [`Place::find`]; [`CgroupError::Path`] if the name isn't of systemd's form.
    pub fn find_scope(cgroups_path: Option<&Path>, id: &str) -> Result<Option<Self>, CgroupError> {
        let named = cgroups_path.filter(|path| !path.as_os_str().is_empty());
        let named = named.map_or_else(|| systemd::default_path(id), Path::to_owned);
        systemd::check(&named, id)?;
        Self::at(Some(&named), id)
    }

    fn at(named: Option<&Path>, id: &str) -> Result<Option<Self>, CgroupError> {
        let path = cgroup_path(named, id)?;
        let layout = match Layout::find() {
            Err(CgroupError::NotMounted) if named.is_none() => return Ok(None),
            layout => layout?,
        };
        let from_root = path.is_absolute();
        Ok(Some(Place {
            layout,
            own: Own::read()?,
            path: checked(&path, &path)?,
            from_root,
            named: named.map(Path::to_owned),
            id: id.to_owned(),
        }))
    }

    fn base(&self) -> Option<&Own> {
        (!self.from_root).then_some(&self.own)
    }

    /// Returns the cgroup, whether it exists or not, so that it can be recorded before it is made.
    pub fn cgroup(&self) -> Cgroup {
        Cgroup::at(&self.layout, self.base(), &self.path)
    }

    /// Makes the cgroup, with those of the limits that this host can set and without device rules,
    /// and moves this process with all of its threads, and the processes `others`, into it. Moving
    /// waits for all CPUs, which takes some milliseconds.
    ///
    /// Returns `None` if this process may make no cgroups here and none was asked for: nothing
    /// depends on it. Nothing is left behind on failure.
    ///
    /// # Errors
    ///
    /// As [`Cgroup::create`]; [`CgroupError::Directory`] if the process can't be moved there.
    pub fn join(
        self,
        manager: Manager<'_>,
        limits: &LinuxResources,
        others: &[i32],
    ) -> Result<Option<Joined>, CgroupError> {
        let mut cgroup = Cgroup::default();
        let made = match manager {
            Manager::Files => cgroup.make(&self.layout, self.base(), &self.path),
            Manager::Systemd(units) => {
                let named = self.named.as_deref();
                cgroup.start_scope(units, named, &self.id, &self.layout, limits)
            }
        };
        let mut joined = Joined {
            cgroup,
            left_out: Vec::new(),
            before: self.before(),
        };
        let limited = made.and_then(|()| joined.cgroup.limit_where_possible(limits));
        let entered = limited.and_then(|changed| {
            joined.left_out = changed.left_out;
            let mut directories = joined.cgroup.directories();
            directories.try_for_each(|directory| {
                enter(&directory.path)?;
                put_all(&directory.path, others)
            })
        });
        let Err(error) = entered else {
            return Ok(Some(joined));
        };
        // The first error is the one to report.
        let _ = joined.go_back();
        for [before, root] in &joined.before {
            let _ = put_all(before, others).or_else(|_| put_all(root, others));
        }
        for directory in joined.cgroup.directories() {
            let _ = directory.remove(Instant::now());
        }
        match error {
            CgroupError::Directory { path, source, .. } if is_refusal(&source) => {
                match self.named {
                    None => Ok(None),
                    Some(_) => Err(CgroupError::NoRights {
                        field: "cgroupsPath".to_owned(),
                        directory: path,
                        source,
                    }),
                }
            }
            error => Err(error),
        }
    }

    /// Returns this process's present cgroup and the root, for each hierarchy.
    fn before(&self) -> Vec<[PathBuf; 2]> {
        let v2 = self.layout.v2.iter();
        let v2 = v2.map(|mount| [mount.join(self.own.v2()), mount.clone()]);
        let v1 = self.layout.v1.iter().map(|hierarchy| {
            let below = hierarchy.below_mount(Some(&self.own), Path::new(""));
            [hierarchy.mount.join(below), hierarchy.mount.clone()]
        });
        v2.chain(v1).collect()
    }
}

/// A cgroup that this process has made and is in.
#[derive(Debug)]
pub struct Joined {
    cgroup: Cgroup,
    left_out: Vec<String>,
    before: Vec<[PathBuf; 2]>,
}

impl Joined {
    /// Returns the cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Returns the fields, below `linux.resources`, of the limits that this host can't set.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Moves this process back to where it was, kills what else is in the cgroup, and removes it.
    ///
    /// # Errors
    ///
    /// [`CgroupError::Directory`] if the process can't be moved back; as [`Cgroup::remove`].
    pub fn leave(self) -> Result<(), CgroupError> {
        self.go_back()?;
        self.cgroup.remove()
    }

    fn go_back(&self) -> Result<(), CgroupError> {
        self.before.iter().try_for_each(|[before, root]| {
            // The process that started this one may have ended, and the cgroup with it.
            enter(before).or_else(|_| enter(root))
        })
    }
}

/// Moves other processes into a cgroup, except those that have ended.
fn put_all(directory: &Path, pids: &[i32]) -> Result<(), CgroupError> {
    pids.iter().try_for_each(|pid| put(directory, *pid))
}

fn put(directory: &Path, pid: i32) -> Result<(), CgroupError> {
    match write(&directory.join("cgroup.procs"), &pid.to_string()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map_err(CgroupError::directory("put a process into", directory)),
    }
}

/// Moves this process with all of its threads into a cgroup.
fn enter(directory: &Path) -> Result<(), CgroupError> {
    write(&directory.join("cgroup.procs"), "0").map_err(CgroupError::directory("enter", directory))
}
