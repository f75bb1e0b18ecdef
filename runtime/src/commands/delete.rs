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
    state::{Folder, StateError, Status, Store},
};

use super::store;

/// How long a sandbox process that was killed may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn delete(global: &Global, arguments: &Delete) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let store = store(global)?;
    let folder = match store.take_stopped(&id) {
        Err(StateError::NoContainer(_)) if arguments.force => return Ok(0),
        Ok(None) if arguments.force => end(&store, &id)?,
        other => other?,
    };
    match folder {
        Some(folder) => folder.remove()?,
        None if arguments.force => {}
        None => {
            return Err(Error::NotStopped {
                id: id.to_string(),
                status: store.look(&id).map_or(Status::Creating, |seen| seen.status),
            });
        }
    }
    Ok(0)
}

/// Kills a container's sandbox process, and takes its folder; `None` if that is gone as well.
fn end(store: &Store, id: &Id) -> Result<Option<Folder>, Error> {
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        // It may end by itself meanwhile, and then there is nothing to kill.
        let _ = super::signal(store, id, Signal::SIGKILL);
        match store.take_stopped(id) {
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
