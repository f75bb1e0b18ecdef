//! `nacre run`.

use nix::sys::prctl::set_child_subreaper;

use crate::{
    isolation::{hooks, signals::Signals},
    state::Store,
};

use super::{
    create::{CreateRequest, NewContainer, Starter},
    error::ProcessError,
    foreground::Foreground,
};

/// How `nacre run` differs from `create` and `start`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunOptions {
    /// Return once the workload runs.
    pub(crate) detach: bool,
    /// Keep the state after the container's end.
    pub(crate) keep: bool,
    /// Adopt what the workload leaves running outside a pid namespace.
    pub(crate) subreaper: bool,
}

/// Runs a container; returns its workload's exit status, or 0 if it was detached.
pub(crate) fn run(
    store: &Store,
    request: CreateRequest,
    options: RunOptions,
) -> Result<u8, ProcessError> {
    if options.detach {
        let made = started(
            NewContainer::new(store, request, Starter::Detached)?,
            |_| Ok(()),
        )?
        .0;
        made.folder.release()?;
        return Ok(0);
    }
    // From here on signals are for the workload.
    let signals = Signals::block().map_err(ProcessError::host("can't block signals"))?;
    if options.subreaper {
        set_child_subreaper(true).map_err(ProcessError::host("can't become a subreaper"))?;
    }
    let made = NewContainer::new(store, request, Starter::InForeground)?;
    let (made, foreground) = started(made, |made| {
        let terminal = match made.container.take_terminal() {
            Some(master) => Some((master, Foreground::raw()?)),
            None => None,
        };
        Foreground::new(signals, terminal)
    })?;
    let status = foreground.wait(made.container.pid());
    if status.is_err() || !options.keep {
        made.destroy()?;
    }
    status
}

/// Starts a container that was made, after `prepare`. Nothing is left of the container if that
/// fails.
fn started<T>(
    mut made: NewContainer,
    prepare: impl FnOnce(&mut NewContainer) -> Result<T, ProcessError>,
) -> Result<(NewContainer, T), ProcessError> {
    let start = || {
        let prepared = prepare(&mut made)?;
        made.container.start()?;
        tracing::debug!("container {}: started", made.record.id);
        hooks::poststart(&made.record)?;
        Ok(prepared)
    };
    match start() {
        Ok(prepared) => Ok((made, prepared)),
        Err(error) => {
            made.undo();
            Err(error)
        }
    }
}
