//! `nacre start`: lets a created container's workload go.

use crate::{
    cli::{Container, Global},
    error::Error,
    id::Id,
    isolation::process,
    state::By,
};

use super::store;

pub(super) fn start(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    match store.record(&id)?.by {
        By::Vm(_) => Err(Error::NotInVm("start")),
        By::Process(process) => {
            process::start(&process, &store.folder(&id))?;
            Ok(0)
        }
    }
}
