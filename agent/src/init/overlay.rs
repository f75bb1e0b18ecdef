//! Makes a container's root an overlay: below, read-only, what the host shares; above it, in the
//! guest's memory or on its disk, what the container writes.
//!
//! The upper layer doesn't outlive the guest, so nothing waits for writes to it: `volatile` makes
//! fsync(2) return at once. The host may change the lower layer in the meantime; overlayfs doesn't
//! define what the container then sees, except of what it hasn't looked up yet.

use std::fs::{DirBuilder, create_dir, metadata, set_permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};

use nacre_agent::container::Step;
use nacre_agent::protocol::{OVERLAY, ROOT, Upper};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::statvfs;

use super::error::InitError;

/// Where the container's writes are kept.
const UPPER: &str = "/run/nacre/upper";

/// The only disk.
const DISK: &str = "/dev/vda";

/// A renamed directory is recorded by its old name instead of being copied; files with several
/// names stay one file (`index`); inode numbers are the lower file system's and don't change
/// ([kernel document](https://docs.kernel.org/filesystems/overlayfs.html)).
const OPTIONS: &str = "redirect_dir=on,index=on,xino=auto,metacopy=off,volatile";

/// Mounts the container's root at [`OVERLAY`].
pub(super) fn mount_root(upper: Upper) -> Result<(), InitError> {
    for directory in [UPPER, OVERLAY] {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(directory);
        made.step(|| "make the directories of an overlay")?;
    }
    let flags = MsFlags::empty();
    let (what, source, options) = match upper {
        Upper::Memory { limit } => ("tmpfs", "tmpfs", format!("mode=700,size={limit}")),
        // Deleted files make the image smaller. Inode tables are zeroes already.
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
    copy_root(ROOT, &above).step(|| "make an overlay's root directory")?;
    create_dir(&work).step(|| "make an overlay's working directory")?;
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

/// Gives the upper root directory the lower one's owner and mode: the overlay's root has the upper
/// one's.
fn copy_root(lower: &str, upper: &str) -> io::Result<()> {
    let root = metadata(lower)?;
    create_dir(upper)?;
    chown(upper, Some(root.uid()), Some(root.gid()))?;
    set_permissions(upper, PermissionsExt::from_mode(root.mode() & 0o7777))
}

/// Returns how many bytes are used above the lower file system, and how many can be.
pub(super) fn written() -> Result<(u64, u64), InitError> {
    let upper = statvfs(UPPER).step(|| "look at what the container has written")?;
    let bytes = |blocks: u64| blocks.saturating_mul(upper.fragment_size());
    let used = upper.blocks().saturating_sub(upper.blocks_free());
    Ok((bytes(used), bytes(upper.blocks())))
}
