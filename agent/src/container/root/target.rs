//! Opens the destination of a mount, where only certain things may be mounted.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{SFlag, fstat};

use crate::container::config::mounts::{Mount, MountKind};
use crate::container::error::{MountProblem, Step};
use crate::container::kernel::procfs::is_proc;
use crate::container::kernel::safe_path::{self, FileKind};

/// The only files of a proc file system that may be replaced (mostly by FUSE file systems that show
/// the container's limits in them), as with runc. Replacing anything else could deceive programs,
/// ours too, that rely on what `/proc` says.
const REPLACEABLE: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Opens the destination, and makes it if it doesn't exist: a file for a bind mount of something
/// other than a directory, a directory otherwise. `bound` is the source of a bind mount.
pub(super) fn open_target(
    root: BorrowedFd<'_>,
    mount: &Mount,
    bound: Option<&OwnedFd>,
) -> Result<OwnedFd, MountProblem> {
    let mut kind = FileKind::Directory;
    if let Some(bound) = bound
        && !is_directory(bound).step(|| "look at the source")?
    {
        kind = FileKind::File;
    }
    let destination = mount.destination.as_path();
    let mut target =
        safe_path::open_or_make(root, destination, kind).step(|| "make the destination")?;
    if mount.is_kernels() {
        // Only where programs look for it, whatever was there a moment ago.
        let plain = safe_path::open_without_links(root, destination);
        let plain = plain.and_then(|plain| Ok((is_directory(&plain)?, plain)));
        target = match plain {
            Ok((true, plain)) => plain,
            Ok((false, _)) | Err(Errno::ELOOP) => {
                let kind = match &mount.kind {
                    MountKind::FileSystem { name, .. } => name.clone(),
                    MountKind::Bind { .. } | MountKind::Remount => String::new(),
                };
                return Err(MountProblem::NotPlain { kind });
            }
            other => other.step(|| "look at the destination")?.1,
        };
    }
    if destination == Path::new("/proc") {
        let right = match bound {
            Some(bound) => is_proc(bound).step(|| "look at the source")?,
            None => mount.is_new("proc"),
        };
        if !right {
            return Err(MountProblem::NotProc);
        }
    } else if is_proc(&target).step(|| "look at the destination")?
        && !REPLACEABLE
            .iter()
            .any(|path| destination == Path::new(path))
    {
        return Err(MountProblem::InsideProc);
    }
    Ok(target)
}

fn is_directory(fd: &OwnedFd) -> nix::Result<bool> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits());
    Ok(kind == SFlag::S_IFDIR)
}
