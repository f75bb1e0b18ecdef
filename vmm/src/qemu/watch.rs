//! The thread that watches QEMU: it reads the console and what QEMU says, and says how the
//! machine ended when QEMU has.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::command::POWER_OFF_STATUS;
use super::jail::{Child, Ended};
use super::{Qemu, QemuError, Shared};
use crate::console::{Console, ConsoleWriter};
use crate::devices::virtio::thread::{poll, poll_for, with_signals_blocked};
use crate::error::Error;
use crate::vm::Exit;

const CHUNK: usize = 4096;

/// How many reads one turn takes: a guest that never stops printing can't keep the thread from
/// seeing QEMU's end.
const READS: usize = 64;

pub(super) struct Watch {
    pub(super) qemu: Qemu,
    pub(super) child: Arc<Child>,
    pub(super) shared: Arc<Shared>,
    pub(super) console: File,
    pub(super) console_writer: ConsoleWriter,
    pub(super) messages: File,
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
        // What QEMU says is kept like a console.
        let (said, mut messages_writer) = Console::new(None);
        let mut open = [true; 2];
        loop {
            let file = |open: bool, file: &File| match open {
                true => file.as_raw_fd(),
                // Not looked at.
                false => -1,
            };
            let mut polled = [
                poll_for(file(open[0], &self.console), libc::POLLIN),
                poll_for(file(open[1], &self.messages), libc::POLLIN),
                poll_for(self.child.as_raw_fd(), libc::POLLIN),
            ];
            if let Err(source) = poll(&mut polled) {
                self.child.kill();
                let what = "waiting for QEMU";
                self.shared.end.set(Err(Error::Host { what, source }));
                return;
            }
            open[0] = open[0] && copy(&mut self.console, &mut self.console_writer);
            open[1] = open[1] && copy(&mut self.messages, &mut messages_writer);
            if polled[2].revents != 0 {
                break;
            }
        }
        let outcome = match self.child.reap() {
            Ok(Ended::Exited(POWER_OFF_STATUS)) => Ok(Exit::PowerOff),
            // Another has said why, and killed it.
            _ if self.shared.end.is_set() => return,
            // It exits on a reset of the guest; many another program does with whatever it is
            // given.
            Ok(Ended::Exited(0)) => match self.fault() {
                None => Ok(Exit::Reset),
                Some(error) => Err(error.into()),
            },
            Ok(ended) => Err(self.failure(ended, said.tail())),
            Err(source) => Err(Error::Host {
                what: "waiting for QEMU",
                source,
            }),
        };
        self.shared.end.set(outcome);
    }

    /// Why it is no QEMU that will do. It was there when the machine was made; this process may
    /// have left the host's file systems since, and then it was one.
    fn fault(&self) -> Option<QemuError> {
        match self.qemu.check() {
            Ok(_) | Err(QemuError::Missing { .. }) => None,
            Err(error) => Some(error),
        }
    }

    /// Why QEMU ended that shouldn't have. If that is because it is too old, that says more.
    fn failure(&self, ended: Ended, message: String) -> Error {
        if matches!(ended, Ended::Exited(_))
            && let Some(error) = self.fault()
        {
            return error.into();
        }
        Error::QemuEnded {
            how: ended.to_string(),
            message,
            console_tail: self.shared.console.tail(),
        }
    }
}

/// Copies what is there; false at its end.
fn copy(from: &mut File, to: &mut ConsoleWriter) -> bool {
    let mut chunk = [0; CHUNK];
    for _ in 0..READS {
        match from.read(&mut chunk) {
            Ok(0) => return false,
            Ok(read) => {
                // It takes everything.
                let _ = to.write_all(&chunk[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}
