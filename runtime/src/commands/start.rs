//! `nacre start`: lets a created container's workload go.

use crate::{
    cli::{Container, Global},
    error::Error,
    id::Id,
    isolation::process,
};

use super::{on_host, store};

pub(super) fn start(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let record = store.record(&id)?;
    process::start(&on_host(&store, &id, &record, "start")?)?;
    Ok(0)
}
