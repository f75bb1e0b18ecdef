//! `nacre delete`: removes a container that has ended.

use std::time::{Duration, Instant};

use crate::{
    cli::{Delete, Global},
    error::Error,
    id::Id,
    isolation::{Found, StatusError, hooks, process, vm},
    state::{Folder, Record, Seen, StateError, Status, Store},
};

use super::store;

/// How long whoever holds the container may take to be done with it.
const TIMEOUT: Duration = Duration::from_secs(45);

pub(super) fn delete(global: &Global, arguments: &Delete) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let deleted = match store.look(&id) {
        Ok(seen) => remove(&store, &id, seen, arguments.force),
        // A command that was killed may have left a folder, which is no container.
        Err(StateError::NoContainer(_)) => store
            .take(&id)
            .and_then(|folder| match folder {
                Some(folder) => {
                    folder.remove_cgroup_of_remains(&id)?;
                    folder.remove()
                }
                None => Ok(()),
            })
            .and(Err(StateError::NoContainer(id)))
            .map_err(Error::from),
        Err(error) => Err(error.into()),
    };
    match deleted {
        Err(Error::State(StateError::NoContainer(_))) if arguments.force => Ok(0),
        other => other.map(|()| 0),
    }
}

/// Removes a container that has ended or was never started; with `force` one that runs too.
pub(super) fn remove(store: &Store, id: &Id, mut seen: Seen, force: bool) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let as_last_resort = begun.elapsed() > TIMEOUT / 2;
        match seen.status {
            Status::Stopped => {}
            Status::Created => end(store, id, &seen, as_last_resort)?,
            _ if force => end(store, id, &seen, as_last_resort)?,
            status => {
                let id = id.to_string();
                return Err(StatusError::NotStopped { id, status }.into());
            }
        }
        match store.take(id) {
            // Somebody else was faster.
            Err(StateError::NoContainer(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(Some(folder)) => match folder.record()? {
                Some(record) if record.is_of_same(&seen.record) => {
                    return destroy(store, id, folder, &record);
                }
                // It was deleted meanwhile, and made anew.
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

/// Kills a container, as the last resort not caring for what it has written.
fn end(store: &Store, id: &Id, seen: &Seen, as_last_resort: bool) -> Result<(), Error> {
    match Found::new(store, id, &seen.record) {
        Found::Process(found) => process::end(&found)?,
        Found::Vm(found) => vm::end(&found, seen.status, as_last_resort)?,
    }
    Ok(())
}

/// Removes all that is left of a container, and its folder.
fn destroy(store: &Store, id: &Id, folder: Folder, record: &Record) -> Result<(), Error> {
    match Found::new(store, id, record) {
        Found::Process(found) => process::destroy(&found, &folder, id)?,
        Found::Vm(_) => folder.remove_cgroup_of_remains(id)?,
    }
    folder.remove()?;
    hooks::poststop(record);
    Ok(())
}
