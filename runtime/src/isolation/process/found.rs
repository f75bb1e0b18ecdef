//! A container on the host's kernel that a command found.

use std::path::PathBuf;

use nacre_agent::container::{Container, Handle, cgroups::Cgroup};

use crate::{
    isolation::status_error::StatusError,
    state::{Record, Status, record},
};

use super::error::ProcessError;

/// A container that a command found.
#[derive(Debug)]
pub(crate) struct HostContainer<'a> {
    pub(super) record: &'a Record,
    pub(super) process: &'a record::HostRecord,
    pub(super) folder: PathBuf,
}

impl<'a> HostContainer<'a> {
    pub(in crate::isolation) fn new(
        record: &'a Record,
        process: &'a record::HostRecord,
        folder: PathBuf,
    ) -> Self {
        Self {
            record,
            process,
            folder,
        }
    }

    /// The container's status doesn't allow what was asked.
    pub(super) fn not_running(&self, status: Status) -> ProcessError {
        let id = self.record.id.clone();
        StatusError::NotRunning { id, status }.into()
    }

    /// Returns its cgroup, which `command` needs.
    pub(super) fn cgroup(&self, command: &'static str) -> Result<&Cgroup, ProcessError> {
        let cgroup = self.process.cgroup.as_ref();
        cgroup.ok_or_else(|| ProcessError::NoCgroup {
            id: self.record.id.clone(),
            command,
        })
    }

    /// Attaches to it; returns `None` if its record was written before it was complete.
    pub(super) fn attach(&self) -> Result<Option<Container>, ProcessError> {
        let Some(init) = self.process.init else {
            return Ok(None);
        };
        let handle = Handle {
            init,
            cgroup: self.process.cgroup.clone(),
        };
        Container::attach(handle, &self.folder)
            .map(Some)
            .map_err(ProcessError::host(
                "can't look for the container's first process",
            ))
    }
}
