//! A guest process's terminal on the host.
//!
//! The guest has the pseudoterminal that the process uses. In the foreground, the caller's own
//! terminal is raw, and its bytes are carried. A caller that gave a console socket gets the master
//! of a pseudoterminal of the host, whose slave passes everything on unprocessed: it is the
//! controlling terminal of this process, so that the kernel tells this process of a new size
//! (SIGWINCH), and of the master's end (SIGHUP, and an end of file).

use std::{io, os::fd::OwnedFd, sync::Arc};

use nacre_agent::{
    container::{ConsoleSocketError, send_terminal},
    protocol::WindowSize,
};
use oci_spec::runtime::Process;
use rustix::{
    process::ioctl_tiocsctty,
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{OptionalActions, Winsize, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};

use crate::isolation::console;

use super::stdio::StandardStream;

/// A terminal whose bytes this process carries.
#[derive(Debug)]
pub(super) enum Terminal {
    /// The caller's own, which somebody has made raw.
    Foreground,
    /// One whose master the caller gets.
    Pair {
        slave: Arc<OwnedFd>,
        /// The master and the socket that it goes to, until it is given away.
        master: Option<(OwnedFd, OwnedFd)>,
    },
}

impl Terminal {
    /// Returns the process's terminal, if any: its master goes to `socket`, or it is the caller's.
    pub(super) fn new(process: &Process, socket: Option<OwnedFd>) -> io::Result<Option<Self>> {
        match (process.terminal(), socket) {
            (Some(true), Some(socket)) => Self::pair(process, socket).map(Some),
            (Some(true), None) => Ok(Some(Self::Foreground)),
            _ => Ok(None),
        }
    }

    /// Makes a terminal whose master goes to `socket`.
    fn pair(process: &Process, socket: OwnedFd) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        let mut settings = tcgetattr(&slave)?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        if let Some(size) = process.console_size()
            && let (Ok(rows), Ok(columns)) = (size.height().try_into(), size.width().try_into())
        {
            tcsetwinsize(&slave, winsize(WindowSize { rows, columns }))?;
        }
        Ok(Self::Pair {
            slave: Arc::new(slave),
            master: Some((master, socket)),
        })
    }

    /// Makes a pair this process's controlling terminal, so that the kernel signals what becomes of
    /// it. This process must lead a session that has no terminal.
    pub(super) fn control(&self) -> io::Result<()> {
        match self {
            Self::Foreground => Ok(()),
            Self::Pair { slave, .. } => Ok(ioctl_tiocsctty(slave)?),
        }
    }

    /// Whether it is a pair of the host's: its end is the end of the guest's, so that signals that
    /// the kernel sends for it needn't be passed on. Those for the caller's own must be.
    pub(super) fn is_pair(&self) -> bool {
        matches!(self, Self::Pair { .. })
    }

    /// Returns its current size, if that can be found out.
    pub(super) fn size(&self) -> Option<WindowSize> {
        let size = match self {
            Self::Foreground => StandardStream::ALL
                .into_iter()
                .find_map(|stream| tcgetwinsize(stream).ok()),
            Self::Pair { slave, .. } => tcgetwinsize(slave).ok(),
        };
        size.map(|size| WindowSize {
            rows: size.ws_row,
            columns: size.ws_col,
        })
    }

    /// Gives the master to whoever is at the socket.
    pub(super) fn give_away(&mut self) -> Result<(), ConsoleSocketError> {
        if let Self::Pair { master, .. } = self
            && let Some((master, socket)) = master.take()
        {
            send_terminal(&socket, &master)?;
        }
        Ok(())
    }
}

/// Gives the process's terminal the size of the caller's, which shows it.
pub(super) fn fit(process: &mut Process) {
    if let Some(size) = Terminal::Foreground.size() {
        console::fit(process, winsize(size));
    }
}

fn winsize(size: WindowSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
