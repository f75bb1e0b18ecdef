//! The state directory: one folder per container in `--root`.
//!
//! Files in a folder are replaced, never changed: a process that dies at any moment leaves either
//! the old file or the new one. None is synced to a disk: a reboot ends every container, and with
//! it all use of its record.
//!
//! Whether a container exists is never taken from a file. A VM's sandbox process holds a lock on
//! the folder for as long as it lives. A container on the host's kernel leaves no process of nacre
//! behind: its own first process, identified by pid and start time, shows whether it exists; a
//! command then holds the lock only while it creates or removes the container.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::Spec;

use crate::{id::Id, log::chain};

use super::{
    error::StateError,
    folder::{self, Claim, Folder},
    record::{By, Record},
    status::Status,
};

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
    /// Opens the store in `--root`. Creates nothing.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: std::path::absolute(root)?,
        })
    }

    /// Claims an id for a new container.
    pub(crate) fn claim(&self, id: &Id) -> Result<Claim, StateError> {
        Folder::claim(&self.root, id)
    }

    /// Looks at a container, without a lock.
    pub(crate) fn look(&self, id: &Id) -> Result<Seen, StateError> {
        self.seen(id)?
            .ok_or_else(|| StateError::NoContainer(id.clone()))
    }

    /// Returns a container's record, for callers that examine the container themselves.
    pub(crate) fn record(&self, id: &Id) -> Result<Record, StateError> {
        folder::read_record(&self.folder(id))?.ok_or_else(|| StateError::NoContainer(id.clone()))
    }

    /// Returns the container's configuration, as in its bundle or as changed since.
    pub(crate) fn spec(&self, id: &Id) -> Result<Spec, StateError> {
        folder::read_config(&self.folder(id))
    }

    /// Locks a container's folder, to remove what is left of it; `None` if another process has it:
    /// that of a VM which hasn't ended, or a command.
    pub(crate) fn take(&self, id: &Id) -> Result<Option<Folder>, StateError> {
        Folder::open(&self.root, id)
    }

    /// Lists all containers, in the order of their ids.
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
                // The others can be listed all the same.
                Err(error) => tracing::warn!("{}", chain(&error)),
            }
        }
        containers.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        Ok(containers)
    }

    /// Returns the path of the folder of the container `id`, whether it exists or not.
    pub(crate) fn folder(&self, id: &Id) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Returns a container, unless there is none with that id, or only the remains of one that was
    /// not to be kept.
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
                    // What is left when a creation is cut short, which can be deleted.
                    None => Status::Stopped,
                };
                Ok(Some(Seen { record, status }))
            }
            By::Vm(_) => {
                let alive = folder::is_locked(&folder)?;
                // It may have got further before it ended.
                match folder::read_record(&folder)? {
                    Some(record) => seen_vm(record, alive, id),
                    None => Ok(None),
                }
            }
        }
    }
}

fn seen_vm(record: Record, alive: bool, id: &Id) -> Result<Option<Seen>, StateError> {
    let By::Vm(vm) = &record.by else {
        return Ok(None);
    };
    let status = if alive {
        vm.status(id)?
    } else if record.is_to_be_deleted() {
        // What is left when a creation is cut short can be deleted too.
        Status::Stopped
    } else {
        return Ok(None);
    };
    Ok(Some(Seen { record, status }))
}
