//! A container in a VM that a command found.

use std::path::PathBuf;

use crate::{
    isolation::status_error::StatusError,
    state::{Record, Status, record},
};

use super::error::VmError;

/// A container that a command found.
#[derive(Debug)]
pub(crate) struct VmContainer<'a> {
    pub(super) record: &'a Record,
    pub(super) vm: &'a record::VmRecord,
    pub(super) folder: PathBuf,
}

impl<'a> VmContainer<'a> {
    pub(in crate::isolation) fn new(
        record: &'a Record,
        vm: &'a record::VmRecord,
        folder: PathBuf,
    ) -> Self {
        Self { record, vm, folder }
    }

    /// The container's status doesn't allow what was asked.
    pub(super) fn not_running(&self, status: Status) -> VmError {
        let id = self.record.id.clone();
        StatusError::NotRunning { id, status }.into()
    }

    /// Thaws a container whose cgroup is frozen. A cgroup v1 freezer even keeps its processes from
    /// being killed.
    pub(super) fn thaw(&self) {
        if let Some(cgroup) = &self.vm.cgroup
            && cgroup.is_frozen().unwrap_or(false)
        {
            let _ = cgroup.thaw();
        }
    }

    /// Sends a signal to the sandbox process.
    pub(super) fn signal_sandbox(&self, signal: i32) -> Result<(), VmError> {
        let sent = self.vm.sandbox.signal(signal);
        sent.map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => self.not_running(Status::Stopped),
            _ => VmError::host("can't signal the container's sandbox process")(source),
        })?;
        // The stand-in ends by itself when the sandbox process does, unless somebody has stopped
        // it.
        if signal == libc::SIGKILL
            && let Some(stand_in) = &self.vm.stand_in
        {
            let _ = stand_in.signal(libc::SIGCONT);
        }
        Ok(())
    }
}
