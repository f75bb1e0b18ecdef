//! Decides which of the host's file systems a guest is served: those that keep files for their
//! owners.
//!
//! All others show the kernel itself, or what it does for others: `/proc`, `/sys`, control groups,
//! message queues, terminals. What may be done there depends on who opens a file, and whoever opens
//! it for a guest has all of root's rights. A file system that isn't listed isn't served, so that
//! the list needn't keep up with what kernels introduce.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use virtiofsd::filesystem::ZeroCopyWriter;
use virtiofsd::oslib::ReadvFlags;

use super::devtmpfs;

/// The magic number of tmpfs, and of devtmpfs.
const TMPFS: u32 = 0x0102_1994;

/// The file systems that are served: a name, and the magic number by which statfs(2) identifies
/// them.
///
/// devtmpfs has the same number as tmpfs, and isn't served: there is one for the whole kernel, so a
/// node that a guest creates there appears in the host's `/dev`, and works for the host's
/// processes.
pub const SERVED: [(&str, u32); 48] = [
    // On the host's disks.
    ("ext2, ext3, ext4", 0xef53),
    ("xfs", 0x5846_5342),
    ("btrfs", 0x9123_683e),
    ("zfs", 0x2fc1_2fc1),
    ("f2fs", 0xf2f5_2010),
    ("bcachefs", 0xca45_1a4e),
    ("jfs", 0x3153_464a),
    ("nilfs2", 0x3434),
    ("reiserfs", 0x5265_4973),
    ("ubifs", 0x2405_1905),
    ("jffs2", 0x72b6),
    ("vfat", 0x4d44),
    ("exfat", 0x2011_bab0),
    ("ntfs3", 0x7366_746e),
    ("ntfs", 0x5346_544e),
    ("hfs", 0x4244),
    ("hfsplus", 0x482b),
    ("iso9660", 0x9660),
    ("udf", 0x1501_3346),
    ("squashfs", 0x7371_7368),
    ("erofs", 0xe0f5_e1e2),
    ("cramfs", 0x28cd_3d45),
    ("romfs", 0x7275),
    // In the host's memory.
    ("tmpfs", TMPFS),
    ("ramfs", 0x8584_58f6),
    // On top of others.
    ("overlay", 0x794c_7630),
    ("aufs", 0x6175_6673),
    ("ecryptfs", 0xf15f),
    ("shiftfs", 0x6a65_6a62),
    // Through programs (including glusterfs, sshfs and virtiofs), and over networks.
    ("fuse", 0x6573_5546),
    ("nfs", 0x6969),
    ("cifs", 0xff53_4d42),
    ("smb2", 0xfe53_4d42),
    ("9p", 0x0102_1997),
    ("ceph", 0x00c3_6400),
    ("afs", 0x5346_414f),
    ("kafs", 0x6b41_4653),
    ("coda", 0x7375_7245),
    ("gfs2", 0x0116_1970),
    ("ocfs2", 0x7461_636f),
    ("orangefs", 0x2003_0528),
    ("lustre", 0x0bd0_0bd0),
    ("gpfs", 0x4750_4653),
    ("beegfs", 0x1983_0326),
    ("panfs", 0xaad7_aaea),
    ("acfs", 0x6163_6673),
    ("vxfs", 0xa501_fcf5),
    ("vboxsf", 0x786f_4256),
];

/// Returns the magic number (`linux/magic.h`) of the file system that an open file is in, if that
/// isn't served. If the number is that of tmpfs, it is devtmpfs.
///
/// # Errors
///
/// The error of fstatfs(2), or the kernel's when it is first asked which file system is devtmpfs.
pub fn not_served(file: impl AsFd) -> io::Result<Option<u32>> {
    let mut status = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `status` is valid for the call, which fills it.
    let status = unsafe {
        match libc::fstatfs(file.as_fd().as_raw_fd(), status.as_mut_ptr()) {
            0 => status.assume_init(),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    // On some processors its type has more bits than its values, and a sign.
    let number = status.f_type as u32;
    let served = SERVED.iter().any(|(_, served)| *served == number);
    let served = served && !(number == TMPFS && devtmpfs::is_of(&file)?);
    Ok((!served).then_some(number))
}

/// How many file systems are remembered as served.
const MAX_KNOWN: usize = 16;

/// The file systems from which a guest has been served files.
#[derive(Default)]
pub(super) struct Known {
    /// A device's number, and a file that is kept open so that no other file system gets it.
    devices: Mutex<Vec<(u64, File)>>,
}

impl Known {
    /// Checks an open file.
    ///
    /// # Errors
    ///
    /// `ENOENT` if it is in a file system that isn't served, or the host's error.
    fn check(&self, file: &File) -> io::Result<()> {
        let device = file.metadata()?.dev();
        let mut known = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|(known, _)| *known == device) {
            return Ok(());
        }
        if not_served(file)?.is_some() {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        if known.len() == MAX_KNOWN {
            known.remove(0);
        }
        known.push((device, file.try_clone()?));
        Ok(())
    }

    pub(super) fn clear(&self) {
        let mut known = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        known.clear();
    }
}

/// Reading into it reads nothing, but checks the file: virtiofsd hands out a file only for reading.
impl ZeroCopyWriter for &Known {
    fn read_from_file_at(
        &mut self,
        file: &File,
        _count: usize,
        _offset: u64,
        _flags: Option<ReadvFlags>,
    ) -> io::Result<usize> {
        self.check(file)?;
        Ok(0)
    }
}
