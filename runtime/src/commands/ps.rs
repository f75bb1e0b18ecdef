//! `nacre ps`: a container's processes.

use crate::{
    cli::{Format, Global, Ps},
    error::Error,
    id::Id,
    isolation::process,
};

use super::{on_host, print, store};

pub(super) fn ps(global: &Global, arguments: &Ps) -> Result<u8, Error> {
    let (id, of_ps) = arguments.words();
    let id = Id::new(id)?;
    let store = store(global)?;
    let record = store.record(&id)?;
    let found = on_host(&store, &id, &record, "ps")?;
    let pids = process::pids(&found)?;
    match arguments.format {
        Format::Json => print(&format!("{}\n", serde_json::json!(pids)))?,
        Format::Table => print(&process::table(&pids, of_ps)?)?,
    }
    Ok(0)
}
