//! The exported directory as a file system: virtiofsd's, but for two things.
//!
//! *Listings.* The guest asks for a page of a directory at a time, from the position that the
//! last page ended at. virtiofsd gets a page from the host, cuts it to what fits, and later
//! goes back to the position of the cut. Where positions are counts (tmpfs before Linux 6.6),
//! that skips a name for each one removed meanwhile, and `rm -r` fails. So what was read is
//! kept here for as long as the guest may go back into it.
//!
//! *Guests that are too old.* Without submounts virtiofsd warns on the standard error, and
//! without supplementary groups it gives a guest's users more rights than they have.

use std::ffi::{CStr, CString};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, DirEntry, DirectoryIterator, Entry, Extensions, FileSystem, FsOptions, GetxattrReply,
    ListxattrReply, OpenOptions, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;

/// How much of a directory is read at a time, in bytes of the host's entries, and of how many
/// directories something is kept: 1 MiB at most.
const MAX_PAGE: u32 = 16 << 10;
const MAX_KEPT: usize = 64;

/// The file system.
pub(super) struct Export {
    inner: PassthroughFs,
    /// Pages by directory handle, the one used last at the end.
    kept: Mutex<Vec<(u64, Arc<[Name]>)>>,
}

/// An entry of a directory.
struct Name {
    inode: u64,
    /// The position after it.
    position: u64,
    kind: u32,
    name: CString,
}

/// What is left of a page.
pub(super) struct Listing {
    page: Arc<[Name]>,
    next: usize,
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

impl Export {
    pub(super) fn new(inner: PassthroughFs) -> Export {
        Export {
            inner,
            kept: Mutex::default(),
        }
    }

    /// The rest of the page that was read last from a directory, if `position` is in it.
    fn rest(&self, handle: u64, position: u64) -> Option<Listing> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(owner, _)| *owner == handle)?;
        let page = Arc::clone(&kept[at].1);
        let before = page.iter().position(|name| name.position == position)?;
        kept[at..].rotate_left(1);
        // At its end, the host's own position is where the next page begins.
        let next = before + 1;
        (next < page.len()).then_some(Listing { page, next })
    }

    fn keep(&self, handle: u64, page: &Arc<[Name]>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(owner, _)| *owner != handle);
        if kept.len() == MAX_KEPT {
            kept.remove(0);
        }
        kept.push((handle, Arc::clone(page)));
    }
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result {
            self.inner.$name($($argument),*)
        })*
    };
}

type Opened = (Option<u64>, OpenOptions);

impl FileSystem for Export {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Listing;

    fn init(&self, offered: FsOptions) -> io::Result<FsOptions> {
        let needed = FsOptions::SUBMOUNTS | FsOptions::CREATE_SUPP_GROUP;
        if !offered.contains(needed) {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        self.inner.init(offered)
    }

    fn readdir(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        size: u32,
        position: u64,
    ) -> io::Result<Listing> {
        if position != 0
            && let Some(listing) = self.rest(handle, position)
        {
            return Ok(listing);
        }
        let size = size.min(MAX_PAGE);
        let mut read = self.inner.readdir(context, inode, handle, size, position)?;
        let mut page = Vec::new();
        while let Some(entry) = read.next() {
            page.push(Name {
                inode: entry.ino,
                position: entry.offset,
                kind: entry.type_,
                name: entry.name.to_owned(),
            });
        }
        let page = page.into();
        self.keep(handle, &page);
        Ok(Listing { page, next: 0 })
    }

    fn releasedir(&self, context: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(owner, _)| *owner != handle);
        self.inner.releasedir(context, inode, flags, handle)
    }

    fn destroy(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clear();
        self.inner.destroy();
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        to: W,
        size: u32,
        offset: u64,
        owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        self.inner
            .read(context, inode, handle, to, size, offset, owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        from: R,
        size: u32,
        offset: u64,
        owner: Option<u64>,
        delayed: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        self.inner.write(
            context, inode, handle, from, size, offset, owner, delayed, kill_priv, flags,
        )
    }

    forward! {
        lookup(context: Context, parent: u64, name: &CStr) -> io::Result<Entry>;
        forget(context: Context, inode: u64, count: u64) -> ();
        batch_forget(context: Context, requests: Vec<(u64, u64)>) -> ();
        getattr(context: Context, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)>;
        setattr(
            context: Context, inode: u64, attr: SetattrIn, handle: Option<u64>, valid: SetattrValid
        ) -> io::Result<(Attr, Duration)>;
        readlink(context: Context, inode: u64) -> io::Result<Vec<u8>>;
        symlink(
            context: Context, target: &CStr, parent: u64, name: &CStr, extensions: Extensions
        ) -> io::Result<Entry>;
        mknod(
            context: Context, parent: u64, name: &CStr, mode: u32, device: u32, umask: u32,
            extensions: Extensions
        ) -> io::Result<Entry>;
        mkdir(
            context: Context, parent: u64, name: &CStr, mode: u32, umask: u32,
            extensions: Extensions
        ) -> io::Result<Entry>;
        unlink(context: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rmdir(context: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rename(
            context: Context, parent: u64, name: &CStr, new_parent: u64, new_name: &CStr,
            flags: u32
        ) -> io::Result<()>;
        link(context: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry>;
        open(context: Context, inode: u64, kill_priv: bool, flags: u32) -> io::Result<Opened>;
        create(
            context: Context, parent: u64, name: &CStr, mode: u32, kill_priv: bool, flags: u32,
            umask: u32, extensions: Extensions
        ) -> io::Result<(Entry, Option<u64>, OpenOptions)>;
        flush(context: Context, inode: u64, handle: u64, owner: u64) -> io::Result<()>;
        fsync(context: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()>;
        fallocate(
            context: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64
        ) -> io::Result<()>;
        release(
            context: Context, inode: u64, flags: u32, handle: u64, flush: bool, unlock: bool,
            owner: Option<u64>
        ) -> io::Result<()>;
        statfs(context: Context, inode: u64) -> io::Result<libc::statvfs64>;
        setxattr(
            context: Context, inode: u64, name: &CStr, value: &[u8], flags: u32,
            extra: SetxattrFlags
        ) -> io::Result<()>;
        getxattr(context: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        listxattr(context: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        removexattr(context: Context, inode: u64, name: &CStr) -> io::Result<()>;
        opendir(context: Context, inode: u64, flags: u32) -> io::Result<Opened>;
        fsyncdir(context: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()>;
        access(context: Context, inode: u64, mask: u32) -> io::Result<()>;
        lseek(
            context: Context, inode: u64, handle: u64, offset: u64, whence: u32
        ) -> io::Result<u64>;
        copyfilerange(
            context: Context, from: u64, from_handle: u64, from_offset: u64, to: u64,
            to_handle: u64, to_offset: u64, length: u64, flags: u64
        ) -> io::Result<usize>;
        syncfs(context: Context, inode: u64) -> io::Result<()>;
    }
}
