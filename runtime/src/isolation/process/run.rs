//! `nacre run`.

use nacre_agent::container::Container;
use nix::sys::prctl::set_child_subreaper;

use crate::{isolation::signals::Signals, state::Store};

use super::{
    ProcessError, Request,
    create::{Made, Starter},
    foreground::{Foreground, block_signals},
};

/// How `nacre run` differs from `create` and `start`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Return once the workload runs.
    pub(crate) detach: bool,
    /// Keep the state after the container's end.
    pub(crate) keep: bool,
    /// Adopt what the workload leaves running outside of a pid namespace.
    pub(crate) subreaper: bool,
}

/// Runs a container; returns its workload's exit status, or 0 if it was detached.
pub(crate) fn run(store: &Store, request: Request, how: How) -> Result<u8, ProcessError> {
    if how.detach {
        return detached(store, request);
    }
    // From here on a signal is the workload's.
    let signals = block_signals().map_err(ProcessError::host("can't block signals"))?;
    if how.subreaper {
        set_child_subreaper(true).map_err(ProcessError::host("can't become a subreaper"))?;
    }
    let mut made = Made::new(store, request, Starter::InForeground)?;
    let foreground = match start(&mut made.container, signals) {
        Ok(foreground) => foreground,
        Err(error) => {
            made.undo();
            return Err(error);
        }
    };
    let status = foreground.wait(made.container.pid());
    if status.is_err() || !how.keep {
        made.destroy()?;
    }
    status
}

/// Starts a container that is to be waited for, once its terminal has one that shows it.
fn start(container: &mut Container, signals: Signals) -> Result<Foreground, ProcessError> {
    let foreground = Foreground::new(signals, container.take_terminal())?;
    container.start()?;
    Ok(foreground)
}

fn detached(store: &Store, request: Request) -> Result<u8, ProcessError> {
    let mut made = Made::new(store, request, Starter::Detached)?;
    match made.container.start() {
        Ok(()) => {
            made.folder.release()?;
            Ok(0)
        }
        Err(error) => {
            made.undo();
            Err(error.into())
        }
    }
}
