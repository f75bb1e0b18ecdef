//! The third step of the sandbox process: boots the machine, in its cgroup.

use nacre_agent::container::cgroups::{Joined, Manager, Place};
use nacre_vmm::monitor::Monitor;
use oci_spec::runtime::LinuxResources;

use crate::isolation::vm::{error::VmError, filter::Filter, limits};

use super::{
    logs::{Carried, Logs},
    prepare::Site,
};

/// Has this process, its monitor, its file server and the stand-in join their cgroup, which has these
/// limits at first, while the machine is being made. The cgroup has to be undone, even after an error.
pub(super) fn join_cgroup(
    monitor: &Monitor,
    place: Option<Place>,
    site: &Site<'_>,
    file_server: u32,
    limits: &LinuxResources,
    cgroup: &mut Option<Joined>,
) -> Result<(), VmError> {
    let manager = match &site.systemd {
        Some(systemd) => Manager::Systemd(systemd),
        None => Manager::Files,
    };
    let pid = |process| i32::try_from(process).unwrap_or_default();
    let others = [
        site.stand_in.identity.pid,
        pid(monitor.process()),
        pid(file_server),
    ];
    *cgroup = match place {
        Some(place) => place.join(manager, limits, &others)?,
        None => None,
    };
    if let Some(joined) = cgroup {
        limits::tell_of_left_out(joined.left_out());
    }
    Ok(())
}

/// Boots the machine. What its monitor has to say is carried on from here on, until after its end:
/// a cgroup is joined by a process with a single thread. And from here on this process makes only the
/// system calls that it needs.
pub(super) fn boot(
    monitor: &mut Monitor,
    logs: Logs,
    carried: &mut Option<Carried>,
) -> Result<(), VmError> {
    Filter::Beginning
        .install()
        .map_err(VmError::host("can't filter this process's system calls"))?;
    let started = logs.start();
    *carried = Some(started.map_err(VmError::host("can't start a thread for the logs"))?);
    monitor.start().map_err(VmError::Make)
}
