//! The container that a command is about, by what isolates it.

use crate::{
    id::Id,
    state::{By, Record, Store},
};

use super::{process::HostContainer, vm::VmContainer};

/// A container that a command found.
#[derive(Debug)]
pub(crate) enum FoundContainer<'a> {
    Vm(VmContainer<'a>),
    Process(HostContainer<'a>),
}

impl<'a> FoundContainer<'a> {
    /// Returns the container that a record is of.
    pub(crate) fn new(store: &Store, id: &Id, record: &'a Record) -> Self {
        let folder = store.folder(id);
        match &record.by {
            By::Vm(vm) => Self::Vm(VmContainer::new(record, vm, folder)),
            By::Process(process) => Self::Process(HostContainer::new(record, process, folder)),
        }
    }
}
