//! A VM's disk: a sparse image without a name, with an empty ext4 file system on it, for what a
//! container writes to its root. It goes away with the sandbox process, however that ends.

use std::{
    env,
    fs::{File, OpenOptions},
    io,
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use nacre_vmm::devices::virtio::{
    block::{Block, MAX_QUEUES},
    throttle::{RateLimit, Throttle},
};

use crate::isolation::vm::error::{DiskError, MKE2FS};

/// Where else to look for the program that makes the file system: a caller's `PATH` may be a
/// user's.
const SYSTEM_PATHS: &str = ":/usr/sbin:/sbin:/usr/bin:/bin";

/// How it makes it, whatever the host's `mke2fs.conf` says. What is on the disk needn't outlive the
/// guest, so there is no journal, and no checksums. The image is zeroes already, so nothing is
/// discarded or zeroed. It won't grow, and root is a user like others: no room is kept for either.
const OPTIONS: &[&str] = &[
    "-q",
    "-F",
    "-b",
    "4096",
    "-i",
    "8192",
    "-m",
    "0",
    "-O",
    "none,filetype,ext_attr,dir_index,extent,flex_bg,uninit_bg,sparse_super,large_file,huge_file,\
     dir_nlink,extra_isize",
    "-I",
    "256",
    "-E",
    "nodiscard,lazy_itable_init=1",
];

/// How long `mke2fs` may take, in seconds. It needs some hundredths of one.
const TIMEOUT: u32 = 30;

/// The disk's image.
#[derive(Debug)]
pub(super) struct Disk(File);

impl Disk {
    /// Makes a disk of `size` bytes in `directory`.
    pub(super) fn make(directory: &Path, size: u64) -> Result<Self, DiskError> {
        let image = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_TMPFILE | libc::O_EXCL)
            .open(directory)
            .and_then(|image| image.set_len(size).map(|()| image))
            .map_err(|source| DiskError::Image {
                directory: directory.into(),
                source,
            })?;
        make_file_system(&image)?;
        Ok(Self(image))
    }

    /// Returns what the image takes up on the host, in bytes.
    pub(super) fn allocated(&self) -> io::Result<u64> {
        // In units of 512 bytes, whatever the file system (stat(3type)).
        Ok(self.0.metadata()?.blocks().saturating_mul(512))
    }

    /// Returns the device for a guest with that many vCPUs, which may do that much with it.
    pub(super) fn device(&self, vcpus: u32, limit: RateLimit) -> Result<Block, DiskError> {
        let queues = u16::try_from(vcpus).unwrap_or(MAX_QUEUES).min(MAX_QUEUES);
        let image = self.0.try_clone();
        image
            .and_then(|image| Block::new(image, "root", queues))
            .map(|device| device.with_throttle(Throttle::new(limit)))
            .map_err(DiskError::Device)
    }
}

fn make_file_system(image: &File) -> Result<(), DiskError> {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(SYSTEM_PATHS);
    let mut command = Command::new(MKE2FS);
    command
        .args(OPTIONS)
        // The image has no other name.
        .arg("/proc/self/fd/0")
        .env_clear()
        .env("PATH", path)
        .env("MKE2FS_CONFIG", "/dev/null")
        .stdin(image.try_clone().map_err(DiskError::Missing)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: alarm(2) is async-signal-safe. It ends the program if that takes too long.
    unsafe {
        command.pre_exec(|| {
            libc::alarm(TIMEOUT);
            Ok(())
        });
    }
    let ended = command.output().map_err(DiskError::Missing)?;
    if ended.status.success() {
        Ok(())
    } else {
        let words = String::from_utf8_lossy(&ended.stderr);
        let words: Vec<&str> = words.lines().map(str::trim).collect();
        Err(DiskError::Failed(match words.join(" ").trim() {
            "" => ended.status.to_string(),
            words => format!("{words} ({})", ended.status),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    #[ignore = "needs mke2fs"]
    fn an_image_has_an_empty_file_system_and_takes_little() {
        let directory = tempfile::tempdir().unwrap();
        let size = 10 << 30;
        let disk = match Disk::make(directory.path(), size) {
            Err(DiskError::Missing(why)) => panic!("skipped: no mke2fs: {why}"),
            disk => disk.unwrap(),
        };
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(disk.0.metadata().unwrap().len(), size);
        let allocated = disk.allocated().unwrap();
        assert!((4096..1 << 20).contains(&allocated), "{allocated}");
        // The magic number of ext2 and its successors.
        let mut magic = [0; 2];
        disk.0.read_exact_at(&mut magic, 0x438).unwrap();
        assert_eq!(u16::from_le_bytes(magic), 0xef53);
        disk.device(4, RateLimit::default()).unwrap();
        disk.device(64, RateLimit::default()).unwrap();
    }

    #[test]
    fn a_directory_that_will_not_do_is_named() {
        for directory in ["/nonexistent/directory", "/proc"] {
            let refused = Disk::make(Path::new(directory), 8 << 20).unwrap_err();
            assert!(refused.to_string().contains(directory), "{refused}");
        }
    }

    #[test]
    #[ignore = "needs mke2fs"]
    fn what_mke2fs_says_is_told() {
        // A file of size 0.
        let refused = make_file_system(&tempfile::tempfile().unwrap());
        match refused.unwrap_err() {
            DiskError::Missing(why) => panic!("skipped: no mke2fs: {why}"),
            refused => assert!(refused.to_string().contains("size"), "{refused}"),
        }
    }
}
