//! Finds the mount that a file is on.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use virtiofsd::filesystem::ZeroCopyWriter;
use virtiofsd::oslib::ReadvFlags;

/// A mount's id, once a file has been looked at.
#[derive(Default)]
pub(super) struct MountId(Option<u64>);

impl MountId {
    /// Returns the id (`stx_mnt_id` of statx(2)); `None` if nothing was looked at, or the kernel
    /// doesn't say.
    pub(super) fn get(&self) -> Option<u64> {
        self.0
    }
}

/// Returns the id of an open file's mount, without asking its file system.
pub(super) fn mount_id(file: &File) -> io::Result<Option<u64>> {
    let mut status = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path is a C string, and `status` is valid for the call, which fills it. All
    // zeroes are a valid value of it.
    let status = unsafe {
        let (file, mask) = (file.as_raw_fd(), libc::STATX_MNT_ID);
        match libc::statx(file, c"".as_ptr(), flags, mask, status.as_mut_ptr()) {
            0 => status.assume_init(),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    Ok((status.stx_mask & libc::STATX_MNT_ID != 0).then_some(status.stx_mnt_id))
}

/// Reading into it reads nothing, but looks at the file: virtiofsd hands out a file only for
/// reading.
impl ZeroCopyWriter for &mut MountId {
    fn read_from_file_at(
        &mut self,
        file: &File,
        _count: usize,
        _offset: u64,
        _flags: Option<ReadvFlags>,
    ) -> io::Result<usize> {
        self.0 = mount_id(file)?;
        Ok(0)
    }
}
