//! How many files of the host the guest holds, and the alarm for when few are left.
//!
//! Linux keeps what it knows of files until it is short of memory. That a file it knows is a file
//! that the host keeps open it doesn't know, so a `find` in a large tree would end with `ENFILE`.
//! Whoever hears the alarm has the guest forget what it doesn't need.

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
    /// Files that are known, and those that are open.
    held: u64,
    /// The number of the inode that became known last. Each has a larger one than those before.
    newest: u64,
    /// How many there were when the alarm was last raised.
    told_at: Option<u64>,
}

impl Crowd {
    /// Of at most `limit` files.
    pub(super) fn new(limit: u64, alarm: Option<&OwnedFd>) -> io::Result<Crowd> {
        Ok(Crowd {
            limit,
            alarm: alarm.map(OwnedFd::try_clone).transpose()?.map(File::from),
            count: Mutex::default(),
        })
    }

    /// Whether the guest has never been told of an inode.
    pub(super) fn is_new(&self, inode: u64) -> bool {
        inode > self.count().newest
    }

    /// The guest was told of an inode, perhaps once more.
    pub(super) fn met(&self, inode: u64) {
        let mut count = self.count();
        if inode > count.newest {
            count.newest = inode;
            self.hold(&mut count);
        }
    }

    /// The guest has opened a file.
    pub(super) fn opened(&self) {
        self.hold(&mut self.count());
    }

    /// The guest has forgotten or closed so many.
    ///
    /// It forgets an inode as often as it was told of it, all at once but for rare cases. What these
    /// make the count too low by is made good by [`Crowd::failed`].
    pub(super) fn let_go(&self, files: usize) {
        let mut count = self.count();
        count.held = count.held.saturating_sub(files as u64);
        if count.held < self.most() {
            count.told_at = None;
        }
    }

    /// A request has failed.
    pub(super) fn failed(&self, error: &io::Error) {
        if matches!(error.raw_os_error(), Some(libc::ENFILE | libc::EMFILE)) {
            let mut count = self.count();
            count.held = self.limit;
            self.raise(&mut count);
        }
    }

    /// The guest holds nothing any more.
    pub(super) fn clear(&self) {
        *self.count() = Count::default();
    }

    fn hold(&self, count: &mut Count) {
        count.held += 1;
        // Again and again while it grows, since what the guest could forget by then may have been
        // too little.
        let next = count
            .told_at
            .map_or(self.most(), |told| told + self.limit / 16);
        if count.held >= next {
            self.raise(count);
        }
    }

    /// How many files are many.
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

    /// Each change is one step, so it is whole whoever panicked.
    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
