//! What the sandbox process records of its container.

use crate::state::{
    By, Folder, Record, StateError,
    record::{self, Progress},
};

/// What is recorded of the container.
pub(super) struct Notes<'a> {
    folder: &'a Folder,
    record: Record,
}

impl<'a> Notes<'a> {
    /// Writes the record that is the first in its folder.
    pub(super) fn begin(folder: &'a Folder, record: Record) -> Result<Self, StateError> {
        folder.write(&record)?;
        Ok(Self { folder, record })
    }

    pub(super) fn folder(&self) -> &'a Folder {
        self.folder
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// Records a change. If it can't be written, nothing has changed.
    pub(super) fn note(
        &mut self,
        change: impl FnOnce(&mut record::VmRecord),
    ) -> Result<(), StateError> {
        let mut record = self.record.clone();
        if let By::Vm(vm) = &mut record.by {
            change(vm);
        }
        self.folder.write(&record)?;
        self.record = record;
        Ok(())
    }

    pub(super) fn vm(&self) -> Option<&record::VmRecord> {
        match &self.record.by {
            By::Vm(vm) => Some(vm),
            By::Process(_) => None,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.vm().is_some_and(|vm| vm.paused)
    }

    pub(super) fn has_start_hooks(&self) -> bool {
        self.vm().is_some_and(|vm| vm.start_hooks > 0)
    }

    pub(super) fn is_started(&self) -> bool {
        self.vm().is_some_and(|vm| vm.progress == Progress::Started)
    }
}
