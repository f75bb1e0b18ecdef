//! `nacre update`.

use oci_spec::runtime::LinuxResources;

use crate::{state::Status, systemd::Systemd};

use super::{error::ProcessError, found::HostContainer};

/// Changes the limits of a container that hasn't ended.
pub(crate) fn update(
    found: &HostContainer<'_>,
    status: Status,
    resources: &LinuxResources,
) -> Result<(), ProcessError> {
    match status {
        Status::Created | Status::Running | Status::Paused => {
            let cgroup = found.cgroup("update")?;
            match cgroup.unit() {
                Some(_) => Ok(cgroup.update_unit(&Systemd::connect()?, resources)?),
                None => Ok(cgroup.update(resources)?),
            }
        }
        Status::Creating | Status::Stopped => Err(found.not_running(status)),
    }
}
