//! The third step of the sandbox process: boots the machine, in its cgroup.

use nacre_agent::container::cgroups::{Joined, Manager, Place};
use nacre_vmm::monitor::Monitor;
use oci_spec::runtime::LinuxResources;

use crate::isolation::vm::{error::VmError, limits};

use super::prepare::Site;

/// Boots the machine, which is being made meanwhile, once this process, its monitor, its file server
/// and the stand-in have joined their cgroup, which has these limits at first. The cgroup has to be
/// undone, even after an error.
pub(super) fn boot(
    monitor: &mut Monitor,
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
    monitor.start().map_err(VmError::Make)
}
