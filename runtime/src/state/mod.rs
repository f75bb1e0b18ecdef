//! What is known of containers between commands: one folder a container in `--root`.
//!
//! A container's sandbox process holds a lock on its folder for as long as it lives, so a
//! folder that isn't locked belongs to a container that has ended, however it ended. Files
//! in it are replaced, never changed: whoever dies at whatever moment leaves either the old
//! or the new.

mod folder;

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    id::{Id, IdError},
    isolation::Isolation,
    log::chain,
};

pub(crate) use folder::Folder;

/// What is kept of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The version of the OCI runtime spec that the container's `config.json` is for.
    pub(crate) oci_version: String,
    pub(crate) id: String,
    /// The sandbox process.
    pub(crate) pid: i32,
    /// The bundle's directory.
    pub(crate) bundle: PathBuf,
    /// The root file system on the host.
    pub(crate) rootfs: PathBuf,
    /// When the container was created (RFC 3339).
    pub(crate) created: String,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) annotations: HashMap<String, String>,
    /// The isolation that was obtained.
    pub(crate) isolation: Isolation,
    /// The guest kernel's release, once the guest has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guest_kernel: Option<String>,
    /// How far the container had come when this was written.
    pub(crate) progress: Progress,
    /// Whether the record outlives the container, until `nacre delete`.
    pub(crate) keep: bool,
}

impl Record {
    /// Whether this stays when the sandbox process is gone: a container that never started
    /// isn't worth keeping.
    fn is_kept(&self) -> bool {
        self.keep && self.progress == Progress::Started
    }
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Progress {
    /// Its VM is booting, or the container in it is being made.
    Creating,
    /// Its workload has been started.
    Started,
}

/// A container's status (OCI runtime spec, runtime.md, "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Creating,
    Running,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Stopped => "stopped",
        })
    }
}

/// Why the state can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("container id {0} is already in use")]
    InUse(Id),
    #[error("there is no container {0}")]
    NoContainer(Id),
    #[error("{what} {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
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

    /// Takes hold of a container that has ended, to remove what is left of it; `None` if it
    /// hasn't ended.
    pub(crate) fn take_stopped(&self, id: &Id) -> Result<Option<Folder>, StateError> {
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

    /// A container, unless there is none of that id, or only the remains of one that was not
    /// to be kept.
    fn seen(&self, id: &Id) -> Result<Option<Seen>, StateError> {
        let alive = folder::is_locked(&self.root, id)?;
        let Some(record) = folder::read_record(&self.root.join(id.as_str()))? else {
            return Ok(None);
        };
        let status = match (alive, record.progress) {
            (true, Progress::Creating) => Status::Creating,
            (true, Progress::Started) => Status::Running,
            (false, _) if record.is_kept() => Status::Stopped,
            (false, _) => return Ok(None),
        };
        Ok(Some(Seen { record, status }))
    }
}
