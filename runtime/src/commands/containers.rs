//! What every command needs to find containers: the state directory, and what isolates them.

use std::env;

use crate::{
    cli::Global,
    config::{Choice, Config, Isolation},
    id::Id,
    isolation::{FoundContainer, process::HostContainer},
    state::{Record, StateError, Store},
};

use super::error::Error;

/// Returns the isolation of containers that have no annotation about it.
pub(super) fn isolation(global: &Global) -> Result<Isolation, Error> {
    let config = Config::load(global.config.as_deref())?;
    let binary = Isolation::from_binary(env::args_os().next().as_deref());
    let choice = Choice {
        flag: global.isolation,
        binary,
        config: config.isolation,
        ..Choice::default()
    };
    Ok(choice.isolation()?)
}

/// Opens the state directory that `--root` names.
pub(super) fn store(global: &Global) -> Result<Store, Error> {
    Store::new(&global.root).map_err(|source| {
        StateError::Io {
            what: "can't use the state directory",
            path: global.root.clone(),
            source,
        }
        .into()
    })
}

/// Returns the container of a record if it is on the host's kernel: what `command` does can't be
/// done in a VM.
pub(super) fn on_host<'a>(
    store: &Store,
    id: &Id,
    record: &'a Record,
    command: &'static str,
) -> Result<HostContainer<'a>, Error> {
    match FoundContainer::new(store, id, record) {
        FoundContainer::Process(found) => Ok(found),
        FoundContainer::Vm(_) => Err(Error::NotInVm(command)),
    }
}
