//! `nacre pause` and `nacre resume`.

use crate::{
    cli::{Container, Global},
    error::Error,
    id::Id,
    isolation::{Found, process, vm},
};

use super::store;

pub(super) fn pause(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    match Found::new(&store, &id, &seen.record) {
        Found::Process(found) => process::pause(&found, seen.status)?,
        Found::Vm(found) => vm::pause(&found, seen.status)?,
    }
    Ok(0)
}

pub(super) fn resume(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    match Found::new(&store, &id, &seen.record) {
        Found::Process(found) => process::resume(&found, seen.status)?,
        Found::Vm(found) => vm::resume(&found, seen.status)?,
    }
    Ok(0)
}
