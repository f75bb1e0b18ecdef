//! The exported directory as a file system: virtiofsd's, with six differences.
//!
//! *Cached content.* With virtiofsd's `auto` policy the guest drops its cache of a file whenever
//! someone opens it: each process that starts makes it read the C library again. Here the guest
//! keeps its cache if the file hasn't changed since the last drop. The change time shows that, and
//! no program can set it; but the clock behind it advances in steps of some milliseconds, so it is
//! conclusive only if that drop came a while after the change. (A program of the host that writes
//! through a mapping changes the time once for many writes. The guest may see the later ones late.)
//!
//! *Closing.* The guest reports when a program closes a file, and waits for the answer, so that
//! file systems that write late can report an error. For files that are only read there is nothing
//! to report, and the libraries of a program that starts are such files; the guest doesn't report
//! closing them.
//!
//! *Listings.* The guest asks for a page of a directory at a time, from the position at which the
//! last page ended. virtiofsd gets a page from the host, cuts it to what fits, and later goes back
//! to the position of the cut. If positions are counts (tmpfs before Linux 6.6), that skips a name
//! for each one removed in the meantime, and `rm -r` fails. So what was read is kept here for as
//! long as the guest may go back into it.
//!
//! *File systems.* A directory may have other file systems mounted below it, now or later. What is
//! on one that isn't [served](super::served) doesn't exist for the guest, whichever way it gets
//! there. Each inode is checked once, through its descriptor, when the guest is first told of it. A
//! directory on its parent's mount needn't be checked.
//!
//! *Names.* A name is one component. virtiofsd would follow a path, through whatever lies on it.
//!
//! *Guests that are too old.* They are refused: without submounts virtiofsd warns on standard
//! error, and without supplementary groups it gives a guest's users more rights than they have.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use virtiofsd::filesystem::{
    Context, DirectoryIterator, Entry, Extensions, FileSystem, FsOptions, GetxattrReply,
    ListxattrReply, OpenOptions, SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{ATTR_SUBMOUNT, Attr, SetattrIn};
use virtiofsd::passthrough::PassthroughFs;

use super::crowd::Crowd;
use super::listing::{Listing, Name};
use super::served::Known;

/// How long after a file's change another change gets a different change time, with a margin:
/// Linux's slowest clock advances a hundred times a second.
const CLOCK_STEP: Duration = Duration::from_millis(30);

/// How many files' change times are remembered.
const MAX_REMEMBERED: usize = 8192;

/// How much of a directory is read at a time, in bytes of the host's entries, and for how many
/// directories a page is kept: 1 MiB at most.
const MAX_PAGE: u32 = 16 << 10;
const MAX_KEPT: usize = 64;

/// The file system.
pub(super) struct Export {
    inner: PassthroughFs,
    /// Pages by directory handle, the last used at the end.
    kept: Mutex<Vec<(u64, Arc<[Name]>)>>,
    /// By inode, the change time of files of which the guest has cached nothing older.
    dropped: Mutex<HashMap<u64, Duration>>,
    crowd: Crowd,
    file_systems: Known,
}

impl Export {
    pub(super) fn new(inner: PassthroughFs, crowd: Crowd) -> Export {
        Export {
            inner,
            kept: Mutex::default(),
            dropped: Mutex::default(),
            crowd,
            file_systems: Known::default(),
        }
    }

    /// Counts an inode that the guest is told of, if the guest may have it.
    fn met(&self, context: Context, result: io::Result<Entry>) -> io::Result<Entry> {
        let entry = result.inspect_err(|error| self.crowd.failed(error))?;
        if self.crowd.is_new(entry.inode)
            && let Err(error) = self.check_file_system(context, &entry)
        {
            self.crowd.failed(&error);
            self.inner.forget(context, entry.inode, 1);
            return Err(error);
        }
        self.crowd.met(entry.inode);
        Ok(entry)
    }

    /// Refuses an inode on a file system that isn't served.
    fn check_file_system(&self, context: Context, entry: &Entry) -> io::Result<()> {
        match entry.attr.mode & libc::S_IFMT {
            // Like its parent, which has been checked, unless it is on another mount.
            libc::S_IFDIR if entry.attr.flags & ATTR_SUBMOUNT == 0 => return Ok(()),
            libc::S_IFDIR | libc::S_IFREG => {}
            // virtiofsd opens no other kinds, so nothing can be read from them.
            _ => return Ok(()),
        }
        self.look_at(context, entry.inode, &self.file_systems)
    }

    /// Has `looks` look at a regular file or a directory.
    pub(super) fn look_at(
        &self,
        context: Context,
        inode: u64,
        looks: impl ZeroCopyWriter,
    ) -> io::Result<()> {
        // This doesn't open the file itself.
        let (handle, _) = self
            .inner
            .open(context, inode, false, libc::O_PATH as u32)?;
        let handle = handle.ok_or(io::ErrorKind::Unsupported)?;
        let outcome = self
            .inner
            .read(context, inode, handle, looks, 0, 0, None, 0);
        self.inner
            .release(context, inode, 0, handle, false, false, None)?;
        outcome.map(drop)
    }

    /// Counts a file that the guest has opened.
    fn opened(&self, result: OpenResult) -> OpenResult {
        let (handle, options) = result.inspect_err(|error| self.crowd.failed(error))?;
        if handle.is_some() {
            self.crowd.opened();
        }
        Ok((handle, options))
    }

    /// Returns whether the guest's cache of a file that it is opening matches the file. If not, the
    /// guest drops it.
    fn is_cache_good(&self, context: Context, inode: u64) -> bool {
        let Ok((attr, _)) = self.inner.getattr(context, inode, None) else {
            return false;
        };
        let changed = Duration::new(attr.ctime, attr.ctimensec);
        let mut dropped = locked(&self.dropped);
        if dropped.get(&inode) == Some(&changed) {
            return true;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        if now.is_ok_and(|now| now > changed + CLOCK_STEP) {
            if dropped.len() >= MAX_REMEMBERED {
                dropped.clear();
            }
            dropped.insert(inode, changed);
        } else {
            dropped.remove(&inode);
        }
        false
    }

    /// Returns the rest of the page last read from a directory, if `position` is in it.
    fn rest(&self, handle: u64, position: u64) -> Option<Listing> {
        let mut kept = locked(&self.kept);
        let at = kept.iter().position(|(owner, _)| *owner == handle)?;
        let page = Arc::clone(&kept[at].1);
        let before = page.iter().position(|name| name.position == position)?;
        kept[at..].rotate_left(1);
        // At the page's end, the next one begins at the host's own position.
        let next = before + 1;
        (next < page.len()).then_some(Listing { page, next })
    }

    fn keep(&self, handle: u64, page: &Arc<[Name]>) {
        let mut kept = locked(&self.kept);
        kept.retain(|(owner, _)| *owner != handle);
        if kept.len() == MAX_KEPT {
            kept.remove(0);
        }
        kept.push((handle, Arc::clone(page)));
    }
}

/// Refuses what isn't exactly one name.
fn check_name(name: &CStr) -> io::Result<()> {
    match name.to_bytes() {
        name if name.is_empty() || name.contains(&b'/') => {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
        _ => Ok(()),
    }
}

/// Refuses to make a file without a name, whose owner would be this process's. Linux doesn't ask for
/// that by opening a directory.
fn check_opening(flags: u32) -> io::Result<()> {
    const MAKES_FILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
    if flags & MAKES_FILE as u32 != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(())
}

/// Each change of what these locks protect is a single step, so it is consistent whoever panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result {
            self.inner.$name($($argument),*)
        })*
    };
}

/// Does the same for calls on a `name` that return a file which the guest knows from then on.
macro_rules! meet {
    ($($name:ident($context:ident: Context, $($argument:ident: $type:ty),*; $entry:ident);)*) => {
        $(fn $name(&self, $context: Context, $($argument: $type),*) -> io::Result<Entry> {
            check_name($entry)?;
            self.met($context, self.inner.$name($context, $($argument),*))
        })*
    };
}

pub(super) type OpenResult = io::Result<(Option<u64>, OpenOptions)>;

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

    fn open(&self, context: Context, inode: u64, kill_priv: bool, flags: u32) -> OpenResult {
        check_opening(flags)?;
        let opened = self.inner.open(context, inode, kill_priv, flags);
        let (handle, mut options) = self.opened(opened)?;
        if self.is_cache_good(context, inode) {
            options |= OpenOptions::KEEP_CACHE;
        }
        if flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 {
            options |= OpenOptions::NOFLUSH;
        }
        Ok((handle, options))
    }

    fn releasedir(&self, context: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        let mut kept = locked(&self.kept);
        kept.retain(|(owner, _)| *owner != handle);
        self.inner.releasedir(context, inode, flags, handle)?;
        self.crowd.let_go(1);
        Ok(())
    }

    fn opendir(&self, context: Context, inode: u64, flags: u32) -> OpenResult {
        check_opening(flags)?;
        self.opened(self.inner.opendir(context, inode, flags))
    }

    fn release(
        &self,
        context: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        unlock: bool,
        owner: Option<u64>,
    ) -> io::Result<()> {
        self.inner
            .release(context, inode, flags, handle, flush, unlock, owner)?;
        self.crowd.let_go(1);
        Ok(())
    }

    fn create(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        check_name(name)?;
        let exclusive = libc::O_EXCL as u32;
        // virtiofsd would open, and perhaps truncate, an existing file before it could be checked.
        let created = self.inner.create(
            context,
            parent,
            name,
            mode,
            kill_priv,
            flags | exclusive,
            umask,
            extensions,
        );
        match created {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && flags & exclusive == 0 =>
            {
                let entry = self.lookup(context, parent, name)?;
                let opened = self.inner.open(context, entry.inode, kill_priv, flags);
                let (handle, options) = self.opened(opened).inspect_err(|_| {
                    self.inner.forget(context, entry.inode, 1);
                })?;
                Ok((entry, handle, options))
            }
            Err(error) => {
                self.crowd.failed(&error);
                Err(error)
            }
            Ok((entry, handle, options)) => {
                let inode = entry.inode;
                let entry = self.met(context, Ok(entry)).inspect_err(|_| {
                    if let Some(handle) = handle {
                        let inner = &self.inner;
                        let _ = inner.release(context, inode, 0, handle, false, false, None);
                    }
                })?;
                if handle.is_some() {
                    self.crowd.opened();
                }
                Ok((entry, handle, options))
            }
        }
    }

    fn unlink(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        check_name(name)?;
        self.inner.unlink(context, parent, name)
    }

    fn rmdir(&self, context: Context, parent: u64, name: &CStr) -> io::Result<()> {
        check_name(name)?;
        self.inner.rmdir(context, parent, name)
    }

    fn rename(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        new_parent: u64,
        new_name: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        self.inner
            .rename(context, parent, name, new_parent, new_name, flags)
    }

    fn forget(&self, context: Context, inode: u64, count: u64) {
        self.inner.forget(context, inode, count);
        self.crowd.let_go(1);
    }

    fn batch_forget(&self, context: Context, requests: Vec<(u64, u64)>) {
        let inodes = requests.len();
        self.inner.batch_forget(context, requests);
        self.crowd.let_go(inodes);
    }

    fn destroy(&self) {
        let mut kept = locked(&self.kept);
        kept.clear();
        locked(&self.dropped).clear();
        self.file_systems.clear();
        self.inner.destroy();
        self.crowd.clear();
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

    meet! {
        lookup(context: Context, parent: u64, name: &CStr; name);
        symlink(
            context: Context, target: &CStr, parent: u64, name: &CStr, extensions: Extensions; name
        );
        mknod(
            context: Context, parent: u64, name: &CStr, mode: u32, device: u32, umask: u32,
            extensions: Extensions; name
        );
        mkdir(
            context: Context, parent: u64, name: &CStr, mode: u32, umask: u32,
            extensions: Extensions; name
        );
        link(context: Context, inode: u64, parent: u64, name: &CStr; name);
    }

    forward! {
        getattr(context: Context, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)>;
        setattr(
            context: Context, inode: u64, attr: SetattrIn, handle: Option<u64>, valid: SetattrValid
        ) -> io::Result<(Attr, Duration)>;
        readlink(context: Context, inode: u64) -> io::Result<Vec<u8>>;
        flush(context: Context, inode: u64, handle: u64, owner: u64) -> io::Result<()>;
        fsync(context: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()>;
        fallocate(
            context: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64
        ) -> io::Result<()>;
        statfs(context: Context, inode: u64) -> io::Result<libc::statvfs64>;
        setxattr(
            context: Context, inode: u64, name: &CStr, value: &[u8], flags: u32,
            extra: SetxattrFlags
        ) -> io::Result<()>;
        getxattr(context: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        listxattr(context: Context, inode: u64, size: u32) -> io::Result<ListxattrReply>;
        removexattr(context: Context, inode: u64, name: &CStr) -> io::Result<()>;
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
