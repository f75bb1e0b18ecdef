//! Records how a machine ended, and waits for its threads.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::Error;
use crate::exit::Exit;

/// A machine's end. The first outcome to be reported counts.
pub(crate) struct End {
    ended: AtomicBool,
    outcome: Mutex<Option<Result<Exit, Error>>>,
    event: EventFd,
}

impl End {
    pub(crate) fn new() -> io::Result<End> {
        Ok(End {
            ended: AtomicBool::new(false),
            outcome: Mutex::new(None),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        })
    }

    /// Sets how it ended; returns true if nobody had done so before.
    pub(crate) fn set(&self, outcome: Result<Exit, Error>) -> bool {
        if self.ended.swap(true, Ordering::SeqCst) {
            return false;
        }
        *self.outcome() = Some(outcome);
        // The counter can't be near its maximum.
        let _ = self.event.write(1);
        true
    }

    pub(crate) fn is_set(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Returns what is readable once it has ended.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the event's, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }

    /// Takes how it ended, for the one caller that is told.
    pub(crate) fn take(&self) -> Result<Exit, Error> {
        self.outcome().take().unwrap_or(Ok(Exit::Stopped))
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Result<Exit, Error>>> {
        self.outcome.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The number of a machine's running threads, for waiting for their end with a limit.
#[derive(Default)]
pub(crate) struct Threads {
    running: Mutex<usize>,
    ended: Condvar,
}

impl Threads {
    /// Adds one thread.
    pub(crate) fn add(&self) {
        *self.running() += 1;
    }

    /// Records that a thread has finished.
    pub(crate) fn done(&self) {
        *self.running() -= 1;
        self.ended.notify_all();
    }

    /// Waits until all have finished, at most for `limit`; returns whether they have.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let (running, _) = self
            .ended
            .wait_timeout_while(self.running(), limit, |running| *running > 0)
            .unwrap_or_else(|e| e.into_inner());
        *running == 0
    }

    fn running(&self) -> MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(|e| e.into_inner())
    }
}
