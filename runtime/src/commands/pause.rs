//! `nacre pause` and `nacre resume`.

use crate::{
    cli::{Container, Global},
    id::Id,
    isolation::{FoundContainer, process, vm},
};

use super::{containers::store, error::Error};

pub(super) fn pause(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    match FoundContainer::new(&store, &id, &seen.record) {
        FoundContainer::Process(found) => process::pause(&found, seen.status)?,
        FoundContainer::Vm(found) => vm::pause(&found, seen.status)?,
    }
    Ok(0)
}

pub(super) fn resume(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    match FoundContainer::new(&store, &id, &seen.record) {
        FoundContainer::Process(found) => process::resume(&found, seen.status)?,
        FoundContainer::Vm(found) => vm::resume(&found, seen.status)?,
    }
    Ok(0)
}
