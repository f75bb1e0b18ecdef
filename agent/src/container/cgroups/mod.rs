//! Control groups, through the files of their file systems: version 2
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v2.html)), version 1
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v1/index.html)), or both on one
//! host, where each controller is in one of them.
//!
//! The OCI runtime spec describes limits in terms of version 1. Each controller's module, in
//! `v1/` and `v2/`, turns its part of `linux.resources` into settings, file by file, as runc
//! does; that is a pure function, so whatever can't be honoured is found before anything is
//! created. [`Cgroup`] then makes a directory in each hierarchy and writes them.

mod cgroup;
mod counts;
mod cpuset;
mod create;
mod devices;
mod directory;
mod error;
mod freezer;
mod layout;
mod manager;
mod oom;
mod own;
mod path;
mod pause;
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

pub use crate::container::fork::placement::Placement;
pub use crate::stats::Stats;
pub use cgroup::Cgroup;
pub use error::CgroupError;
pub use manager::Manager;
pub use oom::OomWatch;
pub use path::cgroup_path;
pub use place::{Joined, Place};
pub use update::Changed;

#[cfg(test)]
mod host_tests;
#[cfg(test)]
mod tests;
