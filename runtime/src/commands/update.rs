//! `nacre update`: changes the limits of a running container.

use nacre_agent::container::config::left_out_of_resources;

use crate::{
    cli::{Global, Update},
    id::Id,
    isolation::{FoundContainer, process, vm},
};

use super::{containers::store, error::Error, update_resources::resources};

pub(super) fn update(global: &Global, arguments: &Update) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let resources = resources(arguments)?;
    if let Some(line) = left_out_of_resources(&resources) {
        tracing::warn!("{line}");
    }
    match FoundContainer::new(&store, &id, &seen.record) {
        FoundContainer::Process(found) => process::update(&found, seen.status, &resources)?,
        FoundContainer::Vm(found) => vm::update(&found, seen.status, &resources)?,
    }
    Ok(0)
}
