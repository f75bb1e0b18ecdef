//! A container's root that is an overlay: what the host shares is below, read-only, and above
//! it what the container writes, in the guest's memory or on its disk.
//!
//! Nothing above outlives the guest, so what is written there is never waited for: `volatile`
//! makes fsync(2) return at once. What is below may be changed by the host meanwhile; overlayfs
//! doesn't say what the container sees then, except of what it hasn't looked at yet.

use std::fs::{DirBuilder, File, create_dir, metadata, set_permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};

use nacre_agent::protocol::{OVERLAY, ROOT, Upper};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

use super::{InitError, Step};

/// Where what the container writes is.
const UPPER: &str = "/run/nacre/upper";

/// The only disk.
const DISK: &str = "/dev/vda";

/// Directories that are renamed are remembered by their old names, and not copied; files with
/// several names stay one file (`index`); inode numbers are the lower file system's and stay
/// the same
/// ([kernel document](https://docs.kernel.org/filesystems/overlayfs.html)).
const OPTIONS: &str = "redirect_dir=on,index=on,xino=auto,metacopy=off,volatile";

/// Mounts the container's root at [`OVERLAY`].
pub(super) fn mount_root(upper: Upper) -> Result<(), InitError> {
    for directory in [UPPER, OVERLAY] {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(directory);
        made.step("make the directories of an overlay")?;
    }
    let flags = MsFlags::empty();
    let (what, source, options) = match upper {
        Upper::Memory { limit } => ("tmpfs", "tmpfs", format!("mode=700,size={limit}")),
        // Deleted files make the image smaller. Tables of inodes are zeroes already.
        Upper::Disk => ("ext4", DISK, "discard,noinit_itable".into()),
    };
    let mounted = |what, at| {
        move |error: nix::Error| InitError::Mount {
            what,
            at,
            source: error.into(),
        }
    };
    mount(Some(source), UPPER, Some(what), flags, Some(&*options)).map_err(mounted(what, UPPER))?;

    let (above, work) = (format!("{UPPER}/root"), format!("{UPPER}/work"));
    copy_root(ROOT, &above).step("make an overlay's root directory")?;
    create_dir(&work).step("make an overlay's working directory")?;
    let options = format!("lowerdir={ROOT},upperdir={above},workdir={work},{OPTIONS}");
    mount(
        Some("overlay"),
        OVERLAY,
        Some("overlay"),
        flags,
        Some(&*options),
    )
    .map_err(mounted("overlay", OVERLAY))
}

/// The root directory itself has the upper one's owner and mode.
fn copy_root(lower: &str, upper: &str) -> io::Result<()> {
    let root = metadata(lower)?;
    create_dir(upper)?;
    chown(upper, Some(root.uid()), Some(root.gid()))?;
    set_permissions(upper, PermissionsExt::from_mode(root.mode() & 0o7777))
}

/// How many bytes are used above the lower file system, and how many can be.
pub(super) fn written() -> Result<(u64, u64), InitError> {
    let upper = statvfs(UPPER).step("look at what the container has written")?;
    let bytes = |blocks: u64| blocks.saturating_mul(upper.fragment_size());
    let used = upper.blocks().saturating_sub(upper.blocks_free());
    Ok((bytes(used), bytes(upper.blocks())))
}

/// Has a disk's file system stop where it is: nobody will read what it hasn't written yet.
pub(super) fn abandon() {
    /// `EXT4_IOC_SHUTDOWN` of Linux's `fs/ext4/ext4.h`, which user space has as
    /// `FS_IOC_SHUTDOWN`, and the flag that says not to write anything first.
    const SHUTDOWN: libc::Ioctl = nix::request_code_read!(b'X', 125, size_of::<u32>()) as _;
    const NO_LOG_FLUSH: u32 = 2;
    let Ok(upper) = File::open(UPPER) else {
        return;
    };
    // SAFETY: the call reads a u32. Other file systems don't know it and refuse.
    unsafe { libc::ioctl(upper.as_raw_fd(), SHUTDOWN, &NO_LOG_FLUSH) };
}
