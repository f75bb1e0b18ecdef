//! A container's cgroup, as a value that can be handed to another process.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::directory::Directory;
use super::error::CgroupError;
use super::v1::Member;

/// How long a process may take to be gone that ends because its creator has ended.
const REMAINS_BOUND: Duration = Duration::from_secs(2);

/// A container's cgroup: a directory in each hierarchy of the host. The value can be handed to
/// another process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its directory in cgroup2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) v2: Option<Directory>,
    /// Its directories in the hierarchies of version 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) v1: Vec<Member>,
    /// The systemd unit that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unit: Option<String>,
}

impl Cgroup {
    /// Returns the cgroup's path in the file system: in cgroup2 or, without that, in the first
    /// hierarchy of version 1.
    pub fn path(&self) -> &Path {
        match self.directories().next() {
            Some(directory) => &directory.path,
            None => Path::new(""),
        }
    }

    /// Returns its path in each hierarchy; cgroup2 comes first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories().map(|directory| directory.path.as_path())
    }

    /// Returns its path in cgroup2, if the host has that.
    pub fn v2_path(&self) -> Option<&Path> {
        Some(&self.v2.as_ref()?.path)
    }

    /// Whether it is in hierarchies of version 1.
    pub fn is_in_v1(&self) -> bool {
        !self.v1.is_empty()
    }

    /// Returns its path in each hierarchy of version 1, with the hierarchy's controllers;
    /// `name=systemd` stands for systemd's, which has none.
    pub fn v1_paths(&self) -> impl Iterator<Item = (&[String], &Path)> {
        let members = self.v1.iter();
        members.map(|member| (&member.controllers[..], member.directory.path.as_path()))
    }

    /// Returns all of its directories, cgroup2's first.
    pub(super) fn directories(&self) -> impl Iterator<Item = &Directory> {
        let v1 = self.v1.iter().map(|member| &member.directory);
        self.v2.iter().chain(v1)
    }

    /// Returns its directory in the v1 hierarchy of a controller.
    pub(super) fn v1_with(&self, controller: &str) -> Option<&Path> {
        let member = self.v1.iter().find(|member| member.has(controller))?;
        Some(&member.directory.path)
    }

    /// Removes its directories without processes. A process that is about to end has 2 s for that.
    /// Directories with processes belong to somebody else, and stay. What is gone already is fine.
    /// Returns whether all of it is gone.
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
}
