//! The end of a container that `nacre delete` removes.

use crate::{id::Id, state::Folder};

use super::{Found, ProcessError, kill};

/// Kills it, without waiting for its end.
pub(crate) fn end(found: &Found<'_>) -> Result<(), ProcessError> {
    if let Some(container) = found.attach()? {
        // It may end by itself meanwhile, and then there is nothing to kill.
        let _ = kill::send(&container, libc::SIGKILL);
    }
    Ok(())
}

/// Removes all that is left of it, but for its folder.
pub(crate) fn destroy(found: &Found<'_>, folder: &Folder, id: &Id) -> Result<(), ProcessError> {
    match found.attach()? {
        Some(container) => container.destroy()?,
        None => folder.remove_cgroup_of_remains(id)?,
    }
    Ok(())
}
