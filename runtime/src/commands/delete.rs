//! `nacre delete`: removes a container that has ended.

use std::time::{Duration, Instant};

use crate::{
    cli::{Delete, Global},
    id::Id,
    isolation::{FoundContainer, StatusError, hooks, process, remains, vm},
    state::{Folder, Record, Seen, StateError, Status, Store},
};

use super::{containers::store, error::Error};

/// How long whoever holds the container may take to finish with it.
const TIMEOUT: Duration = Duration::from_secs(9);

/// After how much of that a container that doesn't end when killed is ended as a last resort.
const LAST_RESORT: Duration = Duration::from_secs(4);

pub(super) fn delete(global: &Global, arguments: &Delete) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let deleted = match store.look(&id) {
        Ok(seen) if arguments.force => remove(&store, &id, seen, IfRunning::Kill),
        Ok(seen) => remove(&store, &id, seen, IfRunning::Refuse),
        // A command that was killed may have left a folder that isn't a container.
        Err(StateError::NoContainer(_)) => {
            remove_remains(&store, &id).and(Err(StateError::NoContainer(id).into()))
        }
        Err(error) => Err(error.into()),
    };
    match deleted {
        Err(Error::State(StateError::NoContainer(_))) if arguments.force => Ok(0),
        other => other.map(|()| 0),
    }
}

/// Removes a folder that isn't a container.
fn remove_remains(store: &Store, id: &Id) -> Result<(), Error> {
    if let Some(folder) = store.take(id)? {
        remains::remove(&folder, id)?;
        folder.remove()?;
    }
    Ok(())
}

/// What is done about a container that is to be removed, and runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfRunning {
    Kill,
    Refuse,
}

/// Removes a container that has ended or was never started, or that runs and may be killed.
pub(super) fn remove(
    store: &Store,
    id: &Id,
    mut seen: Seen,
    if_running: IfRunning,
) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let as_last_resort = begun.elapsed() > LAST_RESORT;
        match seen.status {
            Status::Stopped => {}
            Status::Created => end(store, id, &seen, as_last_resort)?,
            _ if if_running == IfRunning::Kill => end(store, id, &seen, as_last_resort)?,
            status => {
                let id = id.to_string();
                return Err(StatusError::NotStopped { id, status }.into());
            }
        }
        match store.take(id) {
            // Somebody else has removed it first.
            Err(StateError::NoContainer(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(Some(folder)) => match folder.record()? {
                Some(record) if record.is_of_same(&seen.record) => {
                    return destroy(store, id, folder, &record);
                }
                // It was deleted in the meantime, and created anew.
                Some(_) => {}
                None => return Ok(folder.remove()?),
            },
            Ok(None) if begun.elapsed() >= TIMEOUT => {
                return Err(Error::Busy {
                    id: id.to_string(),
                    seconds: TIMEOUT.as_secs(),
                });
            }
            Ok(None) => {}
        }
        seen = match store.look(id) {
            Err(StateError::NoContainer(_)) => return Ok(()),
            seen => seen?,
        };
    }
}

/// Kills a container; as the last resort, without regard for what it has written.
fn end(store: &Store, id: &Id, seen: &Seen, as_last_resort: bool) -> Result<(), Error> {
    match FoundContainer::new(store, id, &seen.record) {
        FoundContainer::Process(found) => process::end(&found)?,
        FoundContainer::Vm(found) if as_last_resort => vm::end_as_last_resort(&found)?,
        FoundContainer::Vm(found) => vm::end(&found, seen.status)?,
    }
    Ok(())
}

/// Removes everything that is left of a container, and its folder.
fn destroy(store: &Store, id: &Id, folder: Folder, record: &Record) -> Result<(), Error> {
    match FoundContainer::new(store, id, record) {
        FoundContainer::Process(found) => process::destroy(&found, &folder, id)?,
        FoundContainer::Vm(_) => remains::remove(&folder, id)?,
    }
    folder.remove()?;
    hooks::poststop(record);
    Ok(())
}
