//! `nacre ps`: a container's processes.

use crate::{
    cli::{Format, Global, Ps},
    error::Error,
    id::Id,
    isolation::{Found, process, vm},
};

use super::{print, store};

pub(super) fn ps(global: &Global, arguments: &Ps) -> Result<u8, Error> {
    let (id, of_ps) = arguments.words();
    let id = Id::new(id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let found = Found::new(&store, &id, &seen.record);
    let text = match (arguments.format, &found) {
        (Format::Json, Found::Process(found)) => json(&process::pids(found)?),
        (Format::Table, Found::Process(found)) => process::table(&process::pids(found)?, of_ps)?,
        (Format::Json, Found::Vm(found)) => json(&vm::pids(found, seen.status)?),
        (Format::Table, Found::Vm(found)) => {
            vm::ps_table(&vm::processes(found, seen.status)?, of_ps)?
        }
    };
    print(&text)?;
    Ok(0)
}

fn json(pids: &[i32]) -> String {
    format!("{}\n", serde_json::json!(pids))
}
