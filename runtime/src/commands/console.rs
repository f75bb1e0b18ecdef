//! `nacre console`: prints what a container's kernel has logged.

use crate::{
    cli::{Container, Global},
    id::Id,
    isolation::{FoundContainer, vm},
};

use super::{containers::store, error::Error, output::print};

pub(super) fn console(global: &Global, arguments: &Container) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let seen = store.look(&id)?;
    match FoundContainer::new(&store, &id, &seen.record) {
        FoundContainer::Vm(found) => print(&vm::kernel_log(&found, seen.status)?)?,
        FoundContainer::Process(_) => return Err(Error::NoOwnKernel(id)),
    }
    Ok(0)
}
