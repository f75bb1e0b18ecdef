//! The end of a container that `nacre delete` removes.

use nacre_agent::container::{
    Container,
    cgroups::{Cgroup, CgroupError},
};

use crate::{id::Id, state::Folder, systemd};

use super::{Found, ProcessError, kill};

/// Kills it, without waiting for its end.
pub(crate) fn end(found: &Found<'_>) -> Result<(), ProcessError> {
    if let Some(container) = found.attach()? {
        // It may end by itself meanwhile, and then there is nothing to kill.
        let _ = kill::send(&container, libc::SIGKILL);
    }
    Ok(())
}

/// Kills what is left of a container, and removes its cgroup and its unit of systemd's.
pub(super) fn destroy_container(container: Container) -> Result<(), CgroupError> {
    let unit = container.cgroup().and_then(Cgroup::unit).map(str::to_owned);
    container.destroy()?;
    systemd::forget(unit.as_deref());
    Ok(())
}

/// Removes all that is left of it, but for its folder.
pub(crate) fn destroy(found: &Found<'_>, folder: &Folder, id: &Id) -> Result<(), ProcessError> {
    match found.attach()? {
        Some(container) => destroy_container(container)?,
        None => folder.remove_cgroup_of_remains(id)?,
    }
    Ok(())
}
