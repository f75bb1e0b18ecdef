//! The entries listed from a directory.

use std::ffi::CString;
use std::sync::Arc;

use virtiofsd::filesystem::{DirEntry, DirectoryIterator};

/// An entry of a directory.
pub(super) struct Name {
    pub(super) inode: u64,
    /// The position after it.
    pub(super) position: u64,
    pub(super) kind: u32,
    pub(super) name: CString,
}

/// The rest of a page.
pub(super) struct Listing {
    pub(super) page: Arc<[Name]>,
    pub(super) next: usize,
}

impl DirectoryIterator for Listing {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        let entry = self.page.get(self.next)?;
        self.next += 1;
        Some(DirEntry {
            ino: entry.inode,
            offset: entry.position,
            type_: entry.kind,
            name: &entry.name,
        })
    }
}
