//! A container's terminal in the foreground: what is typed at nacre's own terminal goes to the
//! container's, and what that shows is shown here. Nacre's is raw meanwhile, so that the
//! container's terminal interprets control characters.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::termios::tcsetwinsize;

use crate::isolation::{
    console::Raw,
    relay::{End, Progress, Relay},
    wait::{Events, Interest, wait},
};

/// How many bytes are carried at a time: a pipe that can be written to takes this many without
/// blocking (pipe(7), `PIPE_BUF`).
const CHUNK: usize = 4096;

/// How many chunks left in a container's terminal are shown after its end: the kernel keeps fewer,
/// but a process outside the container may still write.
const LEFT: usize = 256;

/// The container's terminal, and ours.
#[derive(Debug)]
pub(super) struct ForegroundTerminal {
    ours: Raw,
    /// `None` once nobody is left to whom the container's terminal could show anything.
    relays: Option<Relays>,
}

/// Both directions. The container's terminal is closed with them.
#[derive(Debug)]
struct Relays {
    /// From our standard input to the terminal's master.
    typed: Relay<OwnedFd, Rc<OwnedFd>>,
    /// From the master to our standard output.
    shown: Relay<Rc<OwnedFd>, OwnedFd>,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Interrupt,
    Typed,
    Shown,
}

impl ForegroundTerminal {
    /// Takes the container's terminal, and makes it as large as ours.
    pub(super) fn new(master: OwnedFd, ours: Raw) -> io::Result<Self> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        let master = Rc::new(master);
        let terminal = Self {
            ours,
            relays: Some(Relays {
                typed: Relay::new(stdin, Rc::clone(&master), CHUNK),
                shown: Relay::new(master, stdout, CHUNK),
            }),
        };
        terminal.resize();
        Ok(terminal)
    }

    /// Makes the container's terminal as large as ours. It does no harm if that fails.
    pub(super) fn resize(&self) {
        if let (Some(relays), Some(size)) = (&self.relays, self.ours.size()) {
            let _ = tcsetwinsize(relays.shown.source(), size);
        }
    }

    /// Carries what there is to carry until `interrupt` can be read.
    pub(super) fn carry_until(&mut self, interrupt: BorrowedFd<'_>) -> nix::Result<()> {
        loop {
            let ready = self.ready(interrupt)?;
            let interrupted = ready.has(Awaited::Interrupt);
            for (awaited, _) in ready {
                self.advance(awaited);
            }
            if interrupted {
                return Ok(());
            }
        }
    }

    /// Shows what the container has left.
    pub(super) fn finish(self) {
        let Some(Relays { mut shown, .. }) = self.relays else {
            return;
        };
        for _ in 0..LEFT {
            if !shown.has_rest() {
                shown.advance();
            }
            if !shown.has_rest() {
                break;
            }
            shown.advance();
        }
    }

    /// Does what a descriptor is ready for.
    fn advance(&mut self, awaited: Awaited) {
        let Some(Relays { typed, shown }) = &mut self.relays else {
            return;
        };
        match awaited {
            Awaited::Interrupt => {}
            // Its end isn't the terminal's: that still shows output.
            Awaited::Typed => drop(typed.advance()),
            Awaited::Shown => {
                // Where nobody looks any more the terminal hangs up, and the kernel tells the
                // container's session (SIGHUP).
                if let Progress::Ended(End::Sink(_)) = shown.advance() {
                    self.relays = None;
                }
            }
        }
    }

    /// Waits until something can be done, and returns what.
    fn ready(&self, interrupt: BorrowedFd<'_>) -> nix::Result<Events<Awaited>> {
        let mut interests = vec![Interest::readable(Awaited::Interrupt, interrupt)];
        if let Some(Relays { typed, shown }) = &self.relays {
            interests.extend(typed.interest(Awaited::Typed));
            interests.extend(shown.interest(Awaited::Shown));
        }
        wait(interests, None)
    }
}
