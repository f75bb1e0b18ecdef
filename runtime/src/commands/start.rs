//! `nacre start`: lets a created container's workload go.

use crate::{
    cli::{Container, Global},
    error::Error,
    id::Id,
    isolation::{Found, process, vm},
};

use super::store;

pub(super) fn start(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    match Found::new(&store, &id, &seen.record) {
        Found::Process(found) => process::start(&found, seen.status)?,
        Found::Vm(found) => vm::start(&found, seen.status)?,
    }
    Ok(0)
}
