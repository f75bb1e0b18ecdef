//! The thread that watches QEMU: it reads the console and QEMU's messages, kills QEMU once the
//! machine has to end, and records how it ended when QEMU has.
//!
//! It has no rights but those to kill QEMU, whose user is another, and to read the kernel's log.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::command::POWER_OFF_STATUS;
use super::shared::Shared;
use crate::child::{Child, Ended};
use crate::console::{Console, ConsoleWriter};
use crate::devices::virtio::thread::with_signals_blocked;
use crate::error::Error;
use crate::exit::Exit;
use crate::own_user::OwnUser;
use crate::rights::ThreadRights;
use crate::violation::{self, Whose};
use crate::wait::Wait;

const CHUNK: usize = 4096;

/// How many reads one turn makes: a guest that never stops printing can't keep the thread from
/// noticing QEMU's end.
const READS: usize = 64;

/// `CAP_KILL` and `CAP_SYSLOG`.
const RIGHTS: ThreadRights = ThreadRights::of(&[5, 34]);

/// What can happen to QEMU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Console,
    Messages,
    /// The machine has to end: a device has failed, or somebody has stopped it.
    Over,
    Ended,
}

pub(super) struct Watch {
    pub(super) child: Arc<Child>,
    pub(super) shared: Arc<Shared>,
    pub(super) console: File,
    pub(super) console_writer: ConsoleWriter,
    pub(super) messages: File,
    /// QEMU's user.
    pub(super) user: OwnUser,
}

impl Watch {
    /// Watches in a thread of its own.
    pub(super) fn start(self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        shared.threads.add();
        let builder = std::thread::Builder::new().name("qemu".into());
        let body = move || {
            let shared = Arc::clone(&self.shared);
            self.run();
            shared.threads.done();
        };
        with_signals_blocked(|| builder.spawn(body))
            .map(drop)
            .inspect_err(|_| shared.threads.done())
    }

    fn run(mut self) {
        let begin = violation::now();
        if let Err(source) = RIGHTS.keep() {
            self.child.kill();
            let what = "giving up the rights of the thread that watches QEMU";
            self.shared.end.set(Err(Error::Host { what, source }));
            return;
        }
        // QEMU's messages are kept like a console's output.
        let (said, mut messages_writer) = Console::new(None);
        let shared = Arc::clone(&self.shared);
        let over = shared.end.event();
        let (mut prints, mut speaks, mut lives) = (true, true, true);
        loop {
            let mut wait = Wait::with_capacity(4);
            wait.readable(Event::Ended, &*self.child);
            if lives {
                wait.readable(Event::Over, &over);
            }
            if prints {
                wait.readable(Event::Console, &self.console);
            }
            if speaks {
                wait.readable(Event::Messages, &self.messages);
            }
            let ready = match wait.wait() {
                Ok(ready) => ready,
                Err(source) => {
                    self.child.kill();
                    let what = "waiting for QEMU";
                    self.shared.end.set(Err(Error::Host { what, source }));
                    return;
                }
            };
            if ready.has(Event::Over) {
                self.child.kill();
                lives = false;
            }
            prints = prints && copy(&mut self.console, &mut self.console_writer);
            speaks = speaks && copy(&mut self.messages, &mut messages_writer);
            if ready.has(Event::Ended) {
                break;
            }
        }
        let outcome = match self.child.reap() {
            Ok(Ended::Exited(POWER_OFF_STATUS)) => Ok(Exit::PowerOff),
            // Another thread has recorded why.
            _ if self.shared.end.is_set() => return,
            Ok(ended) => {
                let exited = matches!(ended, Ended::Exited(_));
                let outcome = match ended {
                    // QEMU exits with this on a reset of the guest; many other programs do,
                    // whatever their arguments.
                    Ended::Exited(0) => Ok(Exit::Reset),
                    ended => Err(self.failure(ended, begin, said.tail())),
                };
                self.shared.exited.store(exited, Ordering::Release);
                outcome
            }
            Err(source) => Err(Error::Host {
                what: "waiting for QEMU",
                source,
            }),
        };
        self.shared.end.set(outcome);
    }

    /// Returns why QEMU ended unexpectedly.
    fn failure(&self, ended: Ended, begin: Duration, message: String) -> Error {
        let mut how = ended.to_string();
        if ended == Ended::Killed(libc::SIGSYS) {
            how += &violation::words(Whose::User(self.user), begin);
        }
        Error::QemuEnded {
            how,
            message,
            console_tail: self.shared.console.tail(),
        }
    }
}

/// Copies what there is; returns false at the end.
fn copy(from: &mut File, to: &mut ConsoleWriter) -> bool {
    let mut chunk = [0; CHUNK];
    for _ in 0..READS {
        match from.read(&mut chunk) {
            Ok(0) => return false,
            Ok(read) => {
                // This writer accepts everything.
                let _ = to.write_all(&chunk[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}
