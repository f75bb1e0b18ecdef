//! Errors of cgroups.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long [`Cgroup::remove`] waits for killed processes to be gone. A killed process leaves its
/// cgroup when it exits, which takes as long as its last system call.
pub(super) const REMOVAL_BOUND: Duration = Duration::from_secs(10);

/// How long [`Cgroup::freeze`] waits. A process stops when it next returns from the kernel.
pub(super) const FREEZING_BOUND: Duration = Duration::from_secs(10);

/// Why a cgroup couldn't be made as asked, or couldn't be removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Something that this version of cgroups has no equivalent for.
    #[error("linux.resources.{field} can't be honoured: {reason}")]
    Unsupported {
        /// The field, below `linux.resources`.
        field: String,
        /// Why not.
        reason: &'static str,
    },
    /// An invalid value.
    #[error("linux.resources.{field}: {value} is not {expected}")]
    Invalid {
        /// The field, below `linux.resources`.
        field: String,
        /// What was given.
        value: String,
        /// What would be valid.
        expected: &'static str,
    },
    /// A `linux.cgroupsPath` that names no cgroup.
    #[error("linux.cgroupsPath {path:?}: {reason}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no cgroup file system.
    #[error(
        "no cgroup file system is mounted, neither cgroup2 at /sys/fs/cgroup nor one of version 1"
    )]
    NotMounted,
    /// systemd can't make the container's unit.
    #[error("systemd can't start {unit}")]
    Systemd {
        /// The unit.
        unit: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An ordinary user may make no cgroup where one is needed.
    #[error("linux.{field} takes a cgroup, and this user may not make {}", directory.display())]
    NoRights {
        /// The field, below `linux`.
        field: String,
        /// The cgroup.
        directory: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The kernel, or the parent cgroup, lacks a controller that a limit needs.
    #[error("linux.resources.{field} needs the cgroup controller {controller}, which {} lacks", parent.display())]
    NoController {
        /// The field, below `linux.resources`.
        field: String,
        /// The controller.
        controller: String,
        /// The cgroup that lacks it.
        parent: PathBuf,
    },
    /// The kernel has the controller, but not the file that a limit is written to.
    #[error("linux.resources.{field} needs {file}, which this kernel lacks")]
    NoFile {
        /// The field, below `linux.resources`.
        field: String,
        /// The file's name.
        file: String,
    },
    /// CPUs or memory nodes that don't exist, or aren't available to this cgroup.
    #[error("linux.resources.{field}: of {requested}, only {available:?} is available")]
    Unavailable {
        /// The field, below `linux.resources`.
        field: String,
        /// What was asked for.
        requested: String,
        /// What is available of it.
        available: String,
    },
    /// The kernel refused a limit.
    #[error("linux.resources.{field}: can't write {value:?} to {file}")]
    Write {
        /// The field, below `linux.resources`.
        field: String,
        /// The file's name.
        file: String,
        /// What was written.
        value: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The kernel accepted a limit, but set something else.
    #[error("linux.resources.{field}: wrote {value:?} to {file}, but the kernel made that {now:?}")]
    NotHonoured {
        /// The field, below `linux.resources`.
        field: String,
        /// The file's name.
        file: String,
        /// What was written.
        value: String,
        /// What the file reads now.
        now: String,
    },
    /// The kernel refused a device rule.
    #[error(
        "linux.resources.devices: can't write {rule:?} to the devices controller (does the cgroup above allow it?)"
    )]
    DeviceRule {
        /// The rule.
        rule: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// The device rules' program was refused.
    #[error("linux.resources.devices: can't {action}")]
    Devices {
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// A cgroup directory couldn't be made, read or removed.
    #[error("can't {action} {}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// The directory or a file in it.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// Its processes don't stop.
    #[error("the cgroup {} isn't frozen after {} s", path.display(), FREEZING_BOUND.as_secs())]
    NotFrozen {
        /// Its directory.
        path: PathBuf,
    },
    /// None of the container's cgroups has a freezer.
    #[error("the container can't be paused: its cgroups have neither a v1 freezer nor cgroup2")]
    NoFreezer,
    /// A cgroup of that path has processes or children already.
    #[error("the cgroup {} is in use already", path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
    },
    /// Its processes are still there after they were killed.
    #[error("the cgroup {} still has processes {} s after they were killed", path.display(), REMOVAL_BOUND.as_secs())]
    Busy {
        /// Its directory.
        path: PathBuf,
    },
}

impl CgroupError {
    pub(super) fn unsupported(field: impl Into<String>, reason: &'static str) -> Self {
        CgroupError::Unsupported {
            field: field.into(),
            reason,
        }
    }

    pub(super) fn invalid(
        field: impl Into<String>,
        value: impl std::fmt::Display,
        expected: &'static str,
    ) -> Self {
        CgroupError::Invalid {
            field: field.into(),
            value: value.to_string(),
            expected,
        }
    }

    pub(super) fn directory(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| CgroupError::Directory {
            action,
            path,
            source,
        }
    }
}

/// Whether a user may not do it.
pub(super) fn is_refusal(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS)
    )
}
