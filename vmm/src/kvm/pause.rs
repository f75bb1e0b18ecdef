//! Stops the vCPUs for a while: their threads come out of the guest and wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Where the vCPUs' threads wait while the machine is paused.
#[derive(Default)]
pub(crate) struct Pause {
    /// Changed with the mutex held. A vCPU reads it without the mutex each time it comes out of the
    /// guest.
    requested: AtomicBool,
    /// How many threads are waiting.
    waiting: Mutex<usize>,
    changed: Condvar,
}

impl Pause {
    /// Makes threads that come out of the guest wait from now on. The caller has to kick those that
    /// are in it.
    pub(crate) fn request(&self) {
        let _waiting = self.waiting();
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Waits until `all` threads are waiting or the machine has ended, at most for `limit`; returns
    /// whether that happened.
    pub(crate) fn wait(&self, all: usize, ended: impl Fn() -> bool, limit: Duration) -> bool {
        let runs = |waiting: &mut usize| *waiting < all && !ended();
        let (_waiting, waited) = self
            .changed
            .wait_timeout_while(self.waiting(), limit, runs)
            .unwrap_or_else(|e| e.into_inner());
        !waited.timed_out()
    }

    /// Lets the threads continue, and makes everybody who waits for the machine's end check again.
    pub(crate) fn lift(&self) {
        let _waiting = self.waiting();
        self.requested.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Called by a vCPU's thread, out of the guest: waits for as long as the machine is paused and
    /// hasn't ended. `stand_still` is called before that.
    pub(crate) fn hold(&self, ended: impl Fn() -> bool, stand_still: impl FnOnce()) {
        if !self.requested.load(Ordering::SeqCst) {
            return;
        }
        stand_still();
        let mut waiting = self.waiting();
        *waiting += 1;
        self.changed.notify_all();
        while self.requested.load(Ordering::SeqCst) && !ended() {
            waiting = self
                .changed
                .wait(waiting)
                .unwrap_or_else(|e| e.into_inner());
        }
        *waiting -= 1;
    }

    fn waiting(&self) -> MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(|e| e.into_inner())
    }
}
