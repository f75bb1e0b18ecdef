//! Counts how many of the host's files the guest holds, and raises an alarm when few are left.
//!
//! Linux keeps what it knows about files until it is short of memory. It doesn't know that the host
//! keeps each of those files open, so a `find` in a large tree would end with `ENFILE`. Whoever
//! gets the alarm makes the guest forget what it doesn't need.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The alarm, and what it depends on.
pub(super) struct Crowd {
    limit: u64,
    alarm: Option<File>,
    count: Mutex<Count>,
}

#[derive(Default)]
struct Count {
    /// The number of files that are known, plus that of files that are open.
    held: u64,
    /// The number of the inode that became known last. Each inode's number is larger than the ones
    /// before.
    newest: u64,
    /// How many files were held when the alarm was last raised.
    told_at: Option<u64>,
}

impl Crowd {
    /// Allows at most `limit` files.
    pub(super) fn new(limit: u64, alarm: Option<&OwnedFd>) -> io::Result<Crowd> {
        Ok(Crowd {
            limit,
            alarm: alarm.map(OwnedFd::try_clone).transpose()?.map(File::from),
            count: Mutex::default(),
        })
    }

    /// Returns whether the guest has never been told of an inode.
    pub(super) fn is_new(&self, inode: u64) -> bool {
        inode > self.count().newest
    }

    /// Counts an inode that the guest was told of, possibly not for the first time.
    pub(super) fn met(&self, inode: u64) {
        let mut count = self.count();
        if inode > count.newest {
            count.newest = inode;
            self.hold(&mut count);
        }
    }

    /// Counts a file that the guest has opened.
    pub(super) fn opened(&self) {
        self.hold(&mut self.count());
    }

    /// Subtracts files that the guest has forgotten or closed.
    ///
    /// It forgets an inode as often as it was told of it, all at once except in rare cases. These
    /// make the count too low, which [`Crowd::failed`] corrects.
    pub(super) fn let_go(&self, files: usize) {
        let mut count = self.count();
        count.held = count.held.saturating_sub(files as u64);
        if count.held < self.most() {
            count.told_at = None;
        }
    }

    /// Takes note that a request has failed.
    pub(super) fn failed(&self, error: &io::Error) {
        if matches!(error.raw_os_error(), Some(libc::ENFILE | libc::EMFILE)) {
            let mut count = self.count();
            count.held = self.limit;
            self.raise(&mut count);
        }
    }

    /// Takes note that the guest holds nothing any more.
    pub(super) fn clear(&self) {
        *self.count() = Count::default();
    }

    fn hold(&self, count: &mut Count) {
        count.held += 1;
        // Repeatedly while the count grows, since what the guest could forget the last time may
        // have been too little.
        let next = count
            .told_at
            .map_or(self.most(), |told| told + self.limit / 16);
        if count.held >= next {
            self.raise(count);
        }
    }

    /// Returns how many files are many.
    fn most(&self) -> u64 {
        self.limit / 4 * 3
    }

    fn raise(&self, count: &mut Count) {
        count.told_at = Some(count.held);
        if let Some(mut alarm) = self.alarm.as_ref() {
            // An alarm that can't be raised has been raised often enough.
            let _ = alarm.write(&1u64.to_ne_bytes());
        }
    }

    /// Each change is a single step, so the count is consistent whoever panicked.
    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
