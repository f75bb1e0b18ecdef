//! Root file systems that take time to make, so that they are made once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

static DEBIAN: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Gives this process a mount namespace of its own and mounts the Debian root there, so
/// that it is gone when the tests are. To be called before the first thread.
pub fn mount_debian() {
    DEBIAN.get_or_init(|| {
        let image =
            std::env::var_os("NACRE_DEBIAN_ROOTFS").ok_or("NACRE_DEBIAN_ROOTFS isn't set")?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|e| format!("unshare: {e}"))?;
        // Shared again among themselves: a mount that a program under test makes where it
        // shouldn't is seen here.
        for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | propagation, none)
                .map_err(|e| format!("the mounts' propagation: {e}"))?;
        }
        // Any directory will do: nobody else sees what is mounted on it.
        let target = PathBuf::from("/mnt");
        let output = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,ro"])
            .args([Path::new(&image), &target])
            .output()
            .map_err(|e| format!("mount: {e}"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!(
                "the Debian root can't be mounted: {}",
                why.trim_end()
            ));
        }
        Ok(target)
    });
}

/// Where the Debian root is, read-only, or why it isn't.
pub fn debian() -> Result<&'static Path, &'static str> {
    match DEBIAN.get() {
        Some(Ok(path)) => Ok(path),
        Some(Err(why)) => Err(why),
        None => Err("mount_debian wasn't called"),
    }
}
