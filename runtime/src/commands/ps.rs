//! `nacre ps`: lists a container's processes.

use crate::{
    cli::{Format, Global, Ps},
    id::Id,
    isolation::{FoundContainer, process, vm},
};

use super::{containers::store, error::Error, output::print};

pub(super) fn ps(global: &Global, arguments: &Ps) -> Result<u8, Error> {
    let (id, of_ps) = arguments.words();
    let id = Id::new(id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    let found = FoundContainer::new(&store, &id, &seen.record);
    let text = match (arguments.format, &found) {
        (Format::Json, FoundContainer::Process(found)) => json(&process::pids(found)?),
        (Format::Table, FoundContainer::Process(found)) => {
            process::table(&process::pids(found)?, of_ps)?
        }
        (Format::Json, FoundContainer::Vm(found)) => json(&vm::pids(found, seen.status)?),
        (Format::Table, FoundContainer::Vm(found)) => {
            vm::ps_table(&vm::processes(found, seen.status)?, of_ps)?
        }
    };
    print(&text)?;
    Ok(0)
}

fn json(pids: &[i32]) -> String {
    format!("{}\n", serde_json::json!(pids))
}
