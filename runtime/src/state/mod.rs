//! What is known of containers between commands: one folder a container in `--root`.
//!
//! Files in a folder are replaced, never changed: whoever dies at whatever moment leaves either
//! the old or the new. None is synced to a disk: a reboot ends every container, and with it all
//! that a record is good for.
//!
//! Whether a container is there is never taken from what was written. A VM's sandbox process
//! holds a lock on the folder for as long as it lives. A container on the host's kernel leaves
//! no process of nacre's behind: its own first process, known by pid and start time, tells; the
//! lock is then held by a command only while it makes or removes the container.

mod folder;
pub(crate) mod record;
mod remains;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use nacre_agent::container::{cgroups::CgroupError, config::ConfigError};
use oci_spec::runtime::{ContainerState, Spec};
use serde::Serialize;

use crate::{
    id::{Id, IdError},
    isolation::vm::network::NetworkError,
    log::chain,
};

pub(crate) use folder::Folder;
pub(crate) use record::{By, Record};

/// A container's status (OCI runtime spec, runtime.md, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl From<Status> for ContainerState {
    /// For hooks and the like, which know no more.
    fn from(status: Status) -> Self {
        match status {
            Status::Creating => Self::Creating,
            Status::Created => Self::Created,
            Status::Running | Status::Paused => Self::Running,
            Status::Stopped => Self::Stopped,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// Why the state can't be read or changed. Callers look for runc's words for the first two.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("container with given ID already exists: {0}")]
    InUse(Id),
    #[error("container does not exist: {0}")]
    NoContainer(Id),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("can't tell whether container {id} is paused")]
    Freezer {
        id: Id,
        #[source]
        source: Box<CgroupError>,
    },
    #[error("can't remove the cgroup that is left of container {id}")]
    Remains {
        id: Id,
        #[source]
        source: Box<CgroupError>,
    },
    #[error(
        "can't remove the cgroup that is left of container {id}: there are processes in {path}"
    )]
    Occupied { id: Id, path: PathBuf },
    #[error("can't end the process that stands for container {id}")]
    StandIn {
        id: Id,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("{what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}")]
    Config {
        path: PathBuf,
        #[source]
        source: Box<ConfigError>,
    },
    #[error("{path} isn't what nacre wrote")]
    Record {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// The state directory.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    root: PathBuf,
}

/// A container as another command sees it.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) record: Record,
    pub(crate) status: Status,
}

impl Store {
    /// The store in `--root`. Creates nothing.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: std::path::absolute(root)?,
        })
    }

    /// Takes an id for a new container. The folder of a dead container that was not to be
    /// kept is reclaimed.
    pub(crate) fn claim(&self, id: &Id) -> Result<Folder, StateError> {
        Folder::claim(&self.root, id)
    }

    /// Looks at a container, without a lock.
    pub(crate) fn look(&self, id: &Id) -> Result<Seen, StateError> {
        self.seen(id)?
            .ok_or_else(|| StateError::NoContainer(id.clone()))
    }

    /// A container's record, for those who look at the container itself.
    pub(crate) fn record(&self, id: &Id) -> Result<Record, StateError> {
        folder::read_record(&self.folder(id))?.ok_or_else(|| StateError::NoContainer(id.clone()))
    }

    /// The container's configuration, as it is in its bundle or was changed since.
    pub(crate) fn spec(&self, id: &Id) -> Result<Spec, StateError> {
        folder::read_config(&self.folder(id))
    }

    /// Takes hold of a container's folder, to remove what is left of it; `None` if it is some
    /// other process's: that of a VM which hasn't ended, or of a command.
    pub(crate) fn take(&self, id: &Id) -> Result<Option<Folder>, StateError> {
        Folder::open(&self.root, id)
    }

    /// All containers, in the order of their ids.
    pub(crate) fn list(&self) -> Result<Vec<Seen>, StateError> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| StateError::Io {
                what: "can't list",
                path: self.root.clone(),
                source,
            })?,
        };
        let mut containers = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(Ok(id)) = name.to_str().map(Id::new) else {
                continue;
            };
            match self.seen(&id) {
                Ok(seen) => containers.extend(seen),
                // The others can be told about all the same.
                Err(error) => tracing::warn!("{}", chain(&error)),
            }
        }
        containers.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(containers)
    }

    /// The folder of the container `id`, whether it is there or not.
    pub(crate) fn folder(&self, id: &Id) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// A container, unless there is none of that id, or only the remains of one that was not
    /// to be kept.
    fn seen(&self, id: &Id) -> Result<Option<Seen>, StateError> {
        let folder = self.folder(id);
        let Some(record) = folder::read_record(&folder)? else {
            return Ok(None);
        };
        match &record.by {
            By::Process(process) => {
                let status = match process.init {
                    Some(_) => process.status(&folder, id)?,
                    None if folder::is_locked(&folder)? => Status::Creating,
                    // What is left when a creation is cut short, to be deleted.
                    None => Status::Stopped,
                };
                Ok(Some(Seen { record, status }))
            }
            By::Vm(_) => {
                let alive = folder::is_locked(&folder)?;
                // It may have come further before it ended.
                Ok(folder::read_record(&folder)?.and_then(|record| seen_vm(record, alive)))
            }
        }
    }
}

fn seen_vm(record: Record, alive: bool) -> Option<Seen> {
    let By::Vm(vm) = &record.by else { return None };
    let status = match alive {
        true => vm.status(),
        // What is left when a creation is cut short is there to be deleted too.
        false if record.is_to_be_deleted() => Status::Stopped,
        false => return None,
    };
    Some(Seen { record, status })
}
