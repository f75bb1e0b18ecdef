//! Terminals on the host: the socket over which a container's is given away, and the caller's own,
//! which is raw while it shows a container's.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::{BoxBuilder, Process};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};

/// Why a terminal can't be given to anybody. Callers look for runc's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error("cannot allocate tty if nacre will detach without setting console socket")]
    NoSocket,
    #[error("cannot use console socket if nacre will not detach or allocate tty")]
    UselessSocket,
    #[error("can't connect to the console socket {path}")]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Connects to the console socket, if there is to be one: a caller that detaches from a terminal
/// must give it to somebody, and no other caller may.
pub(super) fn connect(
    path: Option<&Path>,
    terminal: bool,
    detach: bool,
) -> Result<Option<OwnedFd>, ConsoleError> {
    match path {
        None if terminal && detach => Err(ConsoleError::NoSocket),
        Some(_) if !terminal || !detach => Err(ConsoleError::UselessSocket),
        None => Ok(None),
        Some(path) => {
            let failed = |source: io::Error| ConsoleError::Connect {
                path: path.into(),
                source,
            };
            Ok(Some(UnixStream::connect(path).map_err(failed)?.into()))
        }
    }
}

/// Whether a process is to have a terminal.
pub(super) fn has_terminal(process: Option<&Process>) -> bool {
    process.and_then(Process::terminal) == Some(true)
}

/// Gives a process's terminal this size from the beginning.
pub(super) fn fit(process: &mut Process, size: Winsize) {
    let new = BoxBuilder::default()
        .height(u64::from(size.ws_row))
        .width(u64::from(size.ws_col));
    if let Ok(size) = new.build() {
        process.set_console_size(Some(size));
    }
}

/// This process's terminal, raw until this is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Makes this process's terminal raw.
    ///
    /// # Errors
    ///
    /// `ENXIO` if it has none.
    pub(super) fn new() -> io::Result<Self> {
        Self::make(find()?)
    }

    /// Makes a terminal raw.
    pub(super) fn make(terminal: OwnedFd) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, before })
    }

    /// Returns its size.
    pub(super) fn size(&self) -> Option<Winsize> {
        tcgetwinsize(&self.terminal).ok()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SIGTTOU is blocked, so this works from the background.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Finds this process's terminal: one of the standard streams, or else the controlling terminal.
///
/// # Errors
///
/// `ENXIO` if there is none.
pub(super) fn find() -> io::Result<OwnedFd> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [stderr.as_fd(), stdout.as_fd(), stdin.as_fd()];
    match streams.into_iter().find(|stream| tcgetattr(stream).is_ok()) {
        Some(stream) => stream.try_clone_to_owned(),
        None => Ok(File::open("/dev/tty")?.into()),
    }
}
