//! `nacre checkpoint` and `nacre restore`.

use crate::{
    cli::{Checkpoint, Global, Restore},
    config::Isolation,
    id::Id,
    isolation::process,
};

use super::{
    containers::{on_host, store},
    create::Prepared,
    delete::{IfRunning, remove},
    error::Error,
};

pub(super) fn checkpoint(global: &Global, arguments: &Checkpoint) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let found = on_host(&store, &id, &seen.record, "checkpoint")?;
    let ended = process::checkpoint(&found, seen.status, &global.criu, arguments)?;
    if ended {
        // As in runc: what there was of the container is in the images.
        let seen = store.look(&id)?;
        remove(&store, &id, seen, IfRunning::Kill)?;
    }
    Ok(0)
}

pub(super) fn restore(global: &Global, arguments: &Restore) -> Result<u8, Error> {
    let prepared = Prepared::new(global, &arguments.id, &arguments.bundle)?;
    if prepared.isolation == Isolation::Vm {
        return Err(Error::NotInVm("restore"));
    }
    let store = store(global)?;
    let Prepared { id, bundle, .. } = prepared;
    Ok(process::restore(
        &store,
        &id,
        bundle,
        &global.criu,
        arguments,
    )?)
}
