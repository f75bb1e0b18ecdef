//! Ends a container that `nacre delete` removes.

use nacre_agent::container::{
    Container,
    cgroups::{Cgroup, CgroupError},
};

use crate::{id::Id, isolation::remains, state::Folder, systemd};

use super::{error::ProcessError, found::HostContainer, kill};

/// Kills a container, without waiting for its end.
pub(crate) fn end(found: &HostContainer<'_>) -> Result<(), ProcessError> {
    if let Some(container) = found.attach()? {
        // It may end by itself meanwhile, and then there is nothing to kill.
        let _ = kill::send(&container, libc::SIGKILL);
    }
    Ok(())
}

/// Kills what is left of a container, and removes its cgroup and its systemd unit.
pub(super) fn destroy_container(container: Container) -> Result<(), CgroupError> {
    let unit = container.cgroup().and_then(Cgroup::unit).map(str::to_owned);
    container.destroy()?;
    systemd::forget(unit.as_deref());
    Ok(())
}

/// Removes all that is left of a container, except its folder.
pub(crate) fn destroy(
    found: &HostContainer<'_>,
    folder: &Folder,
    id: &Id,
) -> Result<(), ProcessError> {
    match found.attach()? {
        Some(container) => destroy_container(container)?,
        None => remains::remove(folder, id)?,
    }
    Ok(())
}
