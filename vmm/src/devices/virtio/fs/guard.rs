//! The exported directory with a [policy](super::policy): whatever the guest requests passes here
//! first.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};
use virtiofsd::passthrough::credentials::drop_effective_cap;
use virtiofsd::soft_idmap::Id;

use super::attributes;
use super::export::{Export, OpenResult};
use super::listing::Listing;
use super::mount_id::MountId;
use super::policy::{MountFlags, Policy, SET_IDS};

/// A file system that does what the policy allows.
pub(super) struct Guard {
    inner: Export,
    policy: Arc<Policy>,
}

impl Guard {
    pub(super) fn new(inner: Export, policy: Arc<Policy>) -> Guard {
        Guard { inner, policy }
    }

    /// Returns the flags of the mount that a file or directory is on.
    fn mount(&self, context: Context, inode: u64) -> MountFlags {
        let mut id = MountId::default();
        // What can't be found out counts as the strictest.
        let _ = self.inner.look_at(context, inode, &mut id);
        self.policy.mount(id.get())
    }

    /// Checks whether the caller can be the owner of a new file, and be in those other groups.
    fn check_maker(&self, context: Context, extensions: &Extensions) -> io::Result<()> {
        let (user, group) = (context.uid.into_inner(), context.gid.into_inner());
        self.policy.check_owner(Some(user), Some(group))?;
        for group in &extensions.sup_gids {
            self.policy.check_owner(None, Some(group.into_inner()))?;
        }
        Ok(())
    }

    /// Returns the mode that a new regular file in a directory gets, whatever kind `mode` names.
    fn mode_in(&self, context: Context, directory: u64, mode: u32) -> io::Result<u32> {
        if mode & SET_IDS == 0 {
            return Ok(mode);
        }
        // A directory may give its own group to what is made in it. That of the caller has been
        // checked.
        let (directory_now, _) = self.inner.getattr(context, directory, None)?;
        let (user, group) = (context.uid, directory_now.gid);
        let mount = || self.mount(context, directory);
        let (user, group) = (user.into_inner(), group.into_inner());
        Ok(self.policy.mode(mode, user, group, mount))
    }

    /// Does `write`, by which a file loses its set-id bits if the container can't keep them.
    fn writing<T>(&self, write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _dropped = if self.policy.drops_set_ids() {
            drop_effective_cap("FSETID")?
        } else {
            None
        };
        write()
    }
}

macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&self, $($argument: $type),*) -> $result {
            self.inner.$name($($argument),*)
        })*
    };
}

impl FileSystem for Guard {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Listing;

    fn open(&self, context: Context, inode: u64, kill_priv: bool, flags: u32) -> OpenResult {
        let kill_priv = kill_priv || self.policy.drops_set_ids();
        self.inner.open(context, inode, kill_priv, flags)
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
        self.check_maker(context, &extensions)?;
        let mode = self.mode_in(context, parent, mode)?;
        let kill_priv = kill_priv || self.policy.drops_set_ids();
        self.inner.create(
            context, parent, name, mode, kill_priv, flags, umask, extensions,
        )
    }

    fn mknod(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.check_maker(context, &extensions)?;
        let mount = || self.mount(context, parent);
        self.policy.check_node(mode, device, mount)?;
        let mode = match mode & libc::S_IFMT {
            libc::S_IFCHR | libc::S_IFBLK | libc::S_IFIFO | libc::S_IFSOCK => mode,
            _ => self.mode_in(context, parent, mode)?,
        };
        self.inner
            .mknod(context, parent, name, mode, device, umask, extensions)
    }

    fn mkdir(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.check_maker(context, &extensions)?;
        self.inner
            .mkdir(context, parent, name, mode, umask, extensions)
    }

    fn symlink(
        &self,
        context: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.check_maker(context, &extensions)?;
        self.inner
            .symlink(context, target, parent, name, extensions)
    }

    fn setattr(
        &self,
        context: Context,
        inode: u64,
        mut attr: SetattrIn,
        mut handle: Option<u64>,
        mut valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let user = valid.contains(SetattrValid::UID);
        let group = valid.contains(SetattrValid::GID);
        self.policy.check_owner(
            user.then(|| attr.uid.into_inner()),
            group.then(|| attr.gid.into_inner()),
        )?;
        if valid.contains(SetattrValid::MODE) {
            // What is looked at is changed: a file that was moved while it was created has another's
            // handle.
            handle = None;
            let (now, _) = self.inner.getattr(context, inode, None)?;
            if now.mode & libc::S_IFMT == libc::S_IFREG {
                let (user, group) = (now.uid.into_inner(), now.gid.into_inner());
                let mount = || self.mount(context, inode);
                attr.mode = self.policy.mode(attr.mode, user, group, mount);
            }
        }
        if self.policy.drops_set_ids() {
            valid |= SetattrValid::KILL_SUIDGID;
        }
        self.inner.setattr(context, inode, attr, handle, valid)
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
        let kill_priv = kill_priv || self.policy.drops_set_ids();
        self.inner.write(
            context, inode, handle, from, size, offset, owner, delayed, kill_priv, flags,
        )
    }

    fn fallocate(
        &self,
        context: Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.writing(|| {
            self.inner
                .fallocate(context, inode, handle, mode, offset, length)
        })
    }

    fn copyfilerange(
        &self,
        context: Context,
        from: u64,
        from_handle: u64,
        from_offset: u64,
        to: u64,
        to_handle: u64,
        to_offset: u64,
        length: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.writing(|| {
            self.inner.copyfilerange(
                context,
                from,
                from_handle,
                from_offset,
                to,
                to_handle,
                to_offset,
                length,
                flags,
            )
        })
    }

    fn setxattr(
        &self,
        context: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra: SetxattrFlags,
    ) -> io::Result<()> {
        let mount = || self.mount(context, inode);
        self.policy.check_set(name, value, mount)?;
        self.inner
            .setxattr(context, inode, name, value, flags, extra)
    }

    fn getxattr(
        &self,
        context: Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.policy.check_get(name)?;
        self.inner.getxattr(context, inode, name, size)
    }

    fn listxattr(&self, context: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let list = |size| self.inner.listxattr(context, inode, size);
        if self.policy.hides_trusted() {
            attributes::untrusted(size, list)
        } else {
            list(size)
        }
    }

    fn removexattr(&self, context: Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.policy.check_remove(name)?;
        self.inner.removexattr(context, inode, name)
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

    forward! {
        init(offered: FsOptions) -> io::Result<FsOptions>;
        destroy() -> ();
        lookup(context: Context, parent: u64, name: &CStr) -> io::Result<Entry>;
        forget(context: Context, inode: u64, count: u64) -> ();
        batch_forget(context: Context, requests: Vec<(u64, u64)>) -> ();
        getattr(context: Context, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)>;
        readlink(context: Context, inode: u64) -> io::Result<Vec<u8>>;
        link(context: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry>;
        unlink(context: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rmdir(context: Context, parent: u64, name: &CStr) -> io::Result<()>;
        rename(
            context: Context, parent: u64, name: &CStr, new_parent: u64, new_name: &CStr, flags: u32
        ) -> io::Result<()>;
        release(
            context: Context, inode: u64, flags: u32, handle: u64, flush: bool, unlock: bool,
            owner: Option<u64>
        ) -> io::Result<()>;
        flush(context: Context, inode: u64, handle: u64, owner: u64) -> io::Result<()>;
        fsync(context: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()>;
        statfs(context: Context, inode: u64) -> io::Result<libc::statvfs64>;
        opendir(context: Context, inode: u64, flags: u32) -> OpenResult;
        readdir(
            context: Context, inode: u64, handle: u64, size: u32, position: u64
        ) -> io::Result<Listing>;
        releasedir(context: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()>;
        fsyncdir(context: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()>;
        access(context: Context, inode: u64, mask: u32) -> io::Result<()>;
        lseek(
            context: Context, inode: u64, handle: u64, offset: u64, whence: u32
        ) -> io::Result<u64>;
        syncfs(context: Context, inode: u64) -> io::Result<()>;
    }
}
