//! `nacre pause` and `nacre resume`.

use crate::{
    cli::{Container, Global},
    error::Error,
    id::Id,
    isolation::process,
};

use super::{on_host, store};

pub(super) fn pause(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    process::pause(&on_host(&store, &id, &seen.record, "pause")?, seen.status)?;
    Ok(0)
}

pub(super) fn resume(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    process::resume(&on_host(&store, &id, &seen.record, "resume")?, seen.status)?;
    Ok(0)
}
