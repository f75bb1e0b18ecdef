//! The guest's own mounts, of which containers see nothing.

use std::fs::{DirBuilder, create_dir, write};
use std::os::unix::fs::DirBuilderExt;

use nacre_agent::protocol::{ROOT, ROOT_TAG, SHARE, SHARE_TAG};
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use super::{InitError, Step};

/// Where the root is assembled, in the initramfs.
const SYSROOT: &str = "/sysroot";

/// Makes a root out of a tmpfs and mounts on it what the agent and the engine need.
///
/// The initramfs can't stay the root: it is the kernel's first mount, and `pivot_root`, by
/// which the engine enters a container's root, works only where the root is mounted on
/// something ([kernel document](https://docs.kernel.org/filesystems/ramfs-rootfs-initramfs.html)).
pub(super) fn assemble() -> Result<(), InitError> {
    create_dir(SYSROOT).step("make /sysroot")?;
    let none = MsFlags::empty();
    mount_at("tmpfs", "tmpfs", SYSROOT, none, Some("mode=755"))?;
    chdir(SYSROOT).step("enter /sysroot")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .step("move /sysroot to /")?;
    chroot(".").step("make /sysroot the root")?;

    for directory in ["/dev", "/proc", "/sys", "/tmp", ROOT, SHARE] {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .step("make the directories to mount on")?;
    }
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_at("proc", "proc", "/proc", quiet, None)?;
    mount_at("sysfs", "sysfs", "/sys", quiet, None)?;
    let devices = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount_at("devtmpfs", "devtmpfs", "/dev", devices, Some("mode=755"))?;
    // The delegation makes a container's cgroup namespace a border for processes.
    let cgroups = "/sys/fs/cgroup";
    mount_at("cgroup2", "cgroup2", cgroups, quiet, Some("nsdelegate"))?;
    mount_at("virtiofs", ROOT_TAG, ROOT, none, None)
}

/// Mounts what the host shares besides the container's root.
pub(super) fn mount_share() -> Result<(), InitError> {
    mount_at("virtiofs", SHARE_TAG, SHARE, MsFlags::empty(), None)
}

/// Forgets what is cached of files that nobody uses.
pub(super) fn forget_files() -> Result<(), InitError> {
    /// From now on, nothing of it is logged; and names and inodes are forgotten
    /// ([kernel document](https://docs.kernel.org/admin-guide/sysctl/vm.html#drop-caches)).
    const WORDS: [&str; 2] = ["4", "2"];
    for word in WORDS {
        write("/proc/sys/vm/drop_caches", word).step("have the kernel forget files")?;
    }
    Ok(())
}

fn mount_at(
    kind: &'static str,
    source: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
) -> Result<(), InitError> {
    mount(Some(source), at, Some(kind), flags, options).map_err(|error| InitError::Mount {
        what: kind,
        at,
        source: error.into(),
    })
}
