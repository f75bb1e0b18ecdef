//! Isolation by the host kernel's namespaces and cgroups: the engine (`nacre_agent::container`),
//! called on the host. No process of nacre's stays behind a container; each command finds it
//! again by its record.

mod checkpoint;
mod create;
mod delete;
mod descriptors;
mod error;
mod events;
mod exec;
mod foreground;
mod kill;
mod pause;
mod ps;
mod run;
mod start;
mod terminal;
mod update;

use std::path::PathBuf;

use nacre_agent::container::{Container, Handle, cgroups::Cgroup};

use crate::{
    isolation::StatusError,
    state::{Record, Status, record},
};

pub(crate) use checkpoint::{CriuError, checkpoint, restore};
pub(crate) use create::{Request, create};
pub(crate) use delete::{destroy, end};
pub(crate) use error::ProcessError;
pub(crate) use events::{Event, stats, watch};
pub(crate) use exec::exec;
pub(crate) use kill::kill;
pub(crate) use pause::{pause, resume};
pub(crate) use ps::{pids, table};
pub(crate) use run::{How, run};
pub(crate) use start::start;
pub(crate) use update::update;

/// A container that a command found.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    record: &'a Record,
    process: &'a record::Process,
    folder: PathBuf,
}

impl<'a> Found<'a> {
    pub(super) fn new(record: &'a Record, process: &'a record::Process, folder: PathBuf) -> Self {
        Self {
            record,
            process,
            folder,
        }
    }

    /// It can't be done what was asked, because the container is so.
    fn not_running(&self, status: Status) -> ProcessError {
        let id = self.record.id.clone();
        StatusError::NotRunning { id, status }.into()
    }

    /// Its cgroup, without which `command` can't be done.
    fn cgroup(&self, command: &'static str) -> Result<&Cgroup, ProcessError> {
        let cgroup = self.process.cgroup.as_ref();
        cgroup.ok_or_else(|| ProcessError::NoCgroup {
            id: self.record.id.clone(),
            command,
        })
    }

    /// Takes hold of it; `None` if its record was written before it was there in full.
    fn attach(&self) -> Result<Option<Container>, ProcessError> {
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
