//! File systems that all tests use.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::place;

static DEBIAN: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Gives this process a mount namespace of its own, so that what is mounted here is gone when
/// the tests are; mounts the Debian root, and in the testbed a place for the tests'
/// directories. To be called before the first thread.
///
/// # Panics
///
/// If the mount namespace or that place can't be had.
pub fn mount_all() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    // Shared again among themselves: a mount that a program under test makes where it
    // shouldn't is seen here.
    for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | propagation, none).unwrap();
    }
    if place::in_testbed() {
        mount_scratch();
    }
    DEBIAN.get_or_init(mount_debian);
}

/// Where the Debian root is, read-only, or why it isn't.
///
/// # Errors
///
/// Why it isn't.
pub fn debian() -> Result<&'static Path, &'static str> {
    match DEBIAN.get() {
        Some(Ok(path)) => Ok(path),
        Some(Err(why)) => Err(why),
        None => Err("mount_all wasn't called"),
    }
}

fn mount_debian() -> Result<PathBuf, String> {
    let image = std::env::var_os("NACRE_DEBIAN_ROOTFS").ok_or("NACRE_DEBIAN_ROOTFS isn't set")?;
    // Any directory will do: nobody else sees what is mounted on it.
    let target = PathBuf::from("/mnt");
    loop_mount(Path::new(&image), &target, "loop,ro")?;
    Ok(target)
}

/// Puts the tests' directories on ext4, as containers' roots are. On the tmpfs of a kernel
/// before 6.6 a directory's offsets change with what is removed from it, so that a guest that
/// goes through a directory and removes what it sees misses some of it. So is `/var/tmp`, where VMs
/// have their disks: the testbed's root, an overlay, has no files without a name.
fn mount_scratch() {
    let directory = std::env::temp_dir();
    let image = Path::new("/dev/shm/nacre-tests.ext4");
    File::create(image).unwrap().set_len(4 << 30).unwrap();
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-O", "^has_journal"])
        .arg(image)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mke2fs failed");
    loop_mount(image, &directory, "loop").unwrap();
    fs::remove_dir(directory.join("lost+found")).unwrap();
    let none = None::<&str>;
    mount(Some(&directory), "/var/tmp", none, MsFlags::MS_BIND, none).unwrap();
    // The mount keeps it.
    fs::remove_file(image).unwrap();
}

fn loop_mount(image: &Path, target: &Path, options: &str) -> Result<(), String> {
    let output = Command::new("mount")
        .args(["-t", "ext4", "-o", options])
        .args([image, target])
        .output()
        .map_err(|e| format!("mount: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let image = image.display();
    Err(format!("{image} can't be mounted: {}", why.trim_end()))
}
