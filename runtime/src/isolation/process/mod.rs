//! Isolation by the host kernel's namespaces and cgroups: the engine (`nacre_agent::container`),
//! called on the host. No process of nacre's stays behind a container; each command finds it
//! again by its record.

mod create;
mod delete;
mod descriptors;
mod error;
mod exec;
mod foreground;
mod kill;
mod run;
mod start;
mod terminal;

use std::path::Path;

use nacre_agent::container::{Container, Handle};

use crate::state::record;

pub(crate) use create::{Request, create};
pub(crate) use delete::delete;
pub(crate) use error::{EXEC_FAILED, ProcessError};
pub(crate) use exec::{ExecRequest, exec};
pub(crate) use kill::kill;
pub(crate) use run::{How, run};
pub(crate) use start::start;

/// Takes hold of a container by its record; `None` if that was written before the container
/// was there in full.
fn attach(process: &record::Process, folder: &Path) -> Result<Option<Container>, ProcessError> {
    let Some(init) = process.init else {
        return Ok(None);
    };
    let handle = Handle {
        init,
        cgroup: process.cgroup.clone(),
    };
    Container::attach(handle, folder)
        .map(Some)
        .map_err(ProcessError::host(
            "can't look for the container's first process",
        ))
}
