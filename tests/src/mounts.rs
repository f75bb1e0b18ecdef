//! Mounts on the host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts on the host, which are unmounted when this is dropped.
#[derive(Default)]
pub struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// Mounts a file system on a directory, which is made if it isn't there.
    pub fn mount(&mut self, kind: &str, point: &Path) {
        self.mount_with(kind, point, MsFlags::empty());
    }

    /// Does the same with flags.
    pub fn mount_with(&mut self, kind: &str, point: &Path, flags: MsFlags) {
        self.mount_new(kind, point, flags, None);
    }

    /// Mounts a tmpfs for so many bytes.
    pub fn mount_tmpfs(&mut self, point: &Path, size: u64) {
        let size = format!("size={size}");
        self.mount_new("tmpfs", point, MsFlags::empty(), Some(&size));
    }

    fn mount_new(&mut self, kind: &str, point: &Path, flags: MsFlags, data: Option<&str>) {
        fs::create_dir_all(point).unwrap();
        mount(Some(kind), point, Some(kind), flags, data).unwrap();
        self.0.push(point.to_owned());
    }

    /// Bind-mounts a file or directory on another, which is made as a file if it isn't there.
    pub fn bind(&mut self, source: &Path, point: &Path) {
        if !point.exists() {
            File::create(point).unwrap();
        }
        let none = None::<&str>;
        mount(Some(source), point, none, MsFlags::MS_BIND, none).unwrap();
        self.0.push(point.to_owned());
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for point in self.0.iter().rev() {
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}
