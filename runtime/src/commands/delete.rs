//! `nacre delete`: removes what is kept of a container that has ended.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    cli::{Delete, Global},
    error::Error,
    id::Id,
    isolation::process,
    state::{By, Folder, StateError, Status, Store},
};

use super::store;

/// How long a sandbox process that was killed may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn delete(global: &Global, arguments: &Delete) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let deleted = match store.look(&id) {
        Ok(seen) => match &seen.record.by {
            By::Process(_) => Ok(process::delete(&store, &id, seen, arguments.force)?),
            By::Vm(_) => delete_vm(&store, &id, arguments.force),
        },
        // A command that was killed may have left a folder, which is no container.
        Err(StateError::NoContainer(_)) => store
            .take(&id)
            .and_then(|folder| folder.map_or(Ok(()), |folder| remove(folder, &id)))
            .and(Err(StateError::NoContainer(id)))
            .map_err(Error::from),
        Err(error) => Err(error.into()),
    };
    match deleted {
        Err(Error::State(StateError::NoContainer(_))) if arguments.force => Ok(0),
        other => other.map(|()| 0),
    }
}

fn delete_vm(store: &Store, id: &Id, force: bool) -> Result<(), Error> {
    let folder = match store.take(id) {
        Ok(None) if force => end(store, id)?,
        other => other?,
    };
    match folder {
        Some(folder) => Ok(remove(folder, id)?),
        None if force => Ok(()),
        None => Err(Error::NotStopped {
            id: id.to_string(),
            status: store.look(id).map_or(Status::Creating, |seen| seen.status),
        }),
    }
}

/// Removes a folder, and what else a sandbox process has left that was killed.
fn remove(folder: Folder, id: &Id) -> Result<(), StateError> {
    folder.remove_cgroup_of_remains(id)?;
    folder.remove()
}

/// Kills a container's sandbox process, and takes its folder; `None` if that is gone as well.
fn end(store: &Store, id: &Id) -> Result<Option<Folder>, Error> {
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        // It may end by itself meanwhile, and then there is nothing to kill.
        let _ = super::signal(store, id, Signal::SIGKILL);
        match store.take(id) {
            Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
            Ok(None) => {
                return Err(Error::StillRunning {
                    id: id.to_string(),
                    seconds: END_TIMEOUT.as_secs(),
                });
            }
            Err(StateError::NoContainer(_)) => return Ok(None),
            folder => return Ok(folder?),
        }
    }
}
