//! `nacre delete`.

use std::time::{Duration, Instant};

use crate::{
    id::Id,
    state::{By, Folder, Seen, StateError, Status, Store, record},
};

use super::{Found, ProcessError, hooks, kill};

/// How long whoever holds the container may take to be done with it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Removes a container that has ended or was never started; with `force` one that runs too.
pub(crate) fn delete(
    store: &Store,
    id: &Id,
    mut seen: Seen,
    force: bool,
) -> Result<(), ProcessError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let Some(found) = Found::new(store, id, &seen.record) else {
            // Another container has taken the id's place.
            return Err(StateError::NoContainer(id.clone()).into());
        };
        match seen.status {
            Status::Stopped => {}
            Status::Created => end(&found)?,
            _ if force => end(&found)?,
            status => {
                return Err(ProcessError::NotStopped {
                    id: id.to_string(),
                    status,
                });
            }
        }
        match store.take(id) {
            // Somebody else was faster.
            Err(StateError::NoContainer(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(Some(folder)) => match folder.record()? {
                Some(record) if same(&record.by, found.process) => {
                    return destroy(&found, folder, id);
                }
                // It was deleted meanwhile, and made anew.
                Some(_) => {}
                None => return Ok(folder.remove()?),
            },
            Ok(None) if Instant::now() >= deadline => {
                return Err(ProcessError::Busy {
                    id: id.to_string(),
                    seconds: TIMEOUT.as_secs(),
                });
            }
            Ok(None) => {}
        }
        seen = store.look(id)?;
    }
}

/// Kills a container, without waiting for its end.
fn end(found: &Found<'_>) -> Result<(), ProcessError> {
    if let Some(container) = found.attach()? {
        // It may end by itself meanwhile, and then there is nothing to kill.
        let _ = kill::send(&container, libc::SIGKILL);
    }
    Ok(())
}

/// Removes all that is left of a container, and its folder.
fn destroy(found: &Found<'_>, folder: Folder, id: &Id) -> Result<(), ProcessError> {
    match found.attach()? {
        Some(container) => container.destroy()?,
        None => folder.remove_cgroup_of_remains(id)?,
    }
    folder.remove()?;
    hooks::poststop(found.record);
    Ok(())
}

/// Whether two records are of the same container.
fn same(by: &By, process: &record::Process) -> bool {
    matches!(by, By::Process(other) if other.init == process.init)
}
