//! File systems that all tests use.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::place;

static DEBIAN: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Gives this process a mount namespace of its own, so that what is mounted here ends with the
/// tests; mounts the Debian root and, in the testbed, a place for the tests' directories. Must be
/// called before the first thread is started.
///
/// # Panics
///
/// If the mount namespace or that place can't be made.
pub fn mount_all() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    // Shared again within this namespace, so that a mount that a program under test makes where it
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

/// Returns the path of the Debian root, which is read-only.
///
/// # Errors
///
/// Says why it isn't there.
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

/// Puts the tests' directories on ext4, as containers' roots are. On the tmpfs of a kernel before
/// 6.6 a directory's offsets change when entries are removed, so a guest that lists a directory and
/// removes what it sees misses some entries. `/var/tmp`, where VMs have their disks, is put there
/// too: the testbed's root, an overlay, has no unnamed files.
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
    fs::set_permissions(&directory, Permissions::from_mode(0o1777)).unwrap();
    let none = None::<&str>;
    mount(Some(&directory), "/var/tmp", none, MsFlags::MS_BIND, none).unwrap();
    // The mount keeps the image.
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
