//! What the sandbox process has made on the host and has to undo, whichever of its steps fails.

use nacre_agent::{container::cgroups::Joined, stats::Used};

use crate::{
    isolation::vm::{error::VmError, network::CarriedNetwork, stand_in::StandIn},
    log,
    state::{By, Folder, Record, record::End},
    systemd,
};

use super::{home::Home, logs::Carried};

/// What there is to undo.
#[derive(Default)]
pub(super) struct Holdings {
    pub(super) home: Option<Home>,
    pub(super) has_left_host: bool,
    pub(super) stand_in: Option<StandIn>,
    pub(super) cgroup: Option<Joined>,
    pub(super) network: Option<CarriedNetwork>,
    /// What the monitor, which has ended when this is undone, has to say.
    pub(super) carried: Option<Carried>,
    /// What the container has used in its guest, which is recorded.
    pub(super) used: Option<Used>,
}

/// Whether a command waits for the container, or is to delete it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    Alone,
    Caller,
}

impl Holdings {
    /// Leaves nothing behind but the container's folder and its cgroup, which somebody else
    /// removes, since leaving a cgroup waits for all CPUs. Removes them too if this process is
    /// alone and nobody is to delete the container.
    pub(super) fn clean_up(
        self,
        folder: Folder,
        company: Company,
        outcome: &Result<u8, VmError>,
    ) -> Result<(), VmError> {
        drop(self.carried);
        // If one of these fails, the others are undone all the same.
        let closed = self.network.map_or(Ok(()), CarriedNetwork::close);
        let unmounted = self.home.map_or(Ok(()), Home::unmount);
        let record = folder.record();
        let stays =
            |record: &Option<Record>| record.as_ref().is_some_and(Record::outlives_its_command);
        let is_alone = company == Company::Alone;
        if is_alone && !record.as_ref().is_ok_and(stays) {
            if self.has_left_host {
                unmounted?;
                return Ok(closed?);
            }
            let left = self.cgroup.map_or(Ok(()), |joined| {
                let unit = joined.cgroup().unit().map(str::to_owned);
                joined
                    .leave()
                    .inspect(|()| systemd::forget(unit.as_deref()))
            });
            unmounted?;
            closed?;
            // Otherwise the record still names the cgroup.
            left?;
            return Ok(folder.remove()?);
        }
        if let Some(mut record) = record?
            && let By::Vm(vm) = &mut record.by
            && (vm.keep || is_alone)
        {
            vm.end = Some(end_of(outcome, self.used));
            folder.write(&record)?;
        }
        closed?;
        Ok(unmounted?)
    }
}

/// Returns the end that is recorded.
fn end_of(outcome: &Result<u8, VmError>, used: Option<Used>) -> End {
    match outcome {
        Ok(status) => End {
            status: *status,
            failure: None,
            used,
        },
        Err(error) => End {
            status: error.exit_status(),
            failure: Some(log::chain(error)),
            used,
        },
    }
}
