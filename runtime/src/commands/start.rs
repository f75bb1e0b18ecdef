//! `nacre start`: starts a created container's workload, and runs the hooks that follow.

use crate::{
    cli::{Container, Global},
    id::Id,
    isolation::{FoundContainer, hooks, process, vm},
    log,
};

use super::{
    containers::store,
    delete::{IfRunning, remove},
    error::Error,
};

pub(super) fn start(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    match FoundContainer::new(&store, &id, &seen.record) {
        FoundContainer::Process(found) => process::start(&found, seen.status)?,
        FoundContainer::Vm(found) => vm::start(&found, seen.status)?,
    }
    if let Err(error) = hooks::poststart(&seen.record) {
        // By the runtime spec, that ends the container's lifecycle.
        if let Err(also) = remove(&store, &id, seen, IfRunning::Kill) {
            tracing::warn!("{}", log::chain(&also));
        }
        return Err(error.into());
    }
    Ok(0)
}
