//! A raw image: a file whose bytes are the disk's.
//!
//! The file may be sparse, and others may change it, even its size: what doesn't exist any more
//! can't be read, and what is written exists again. Data goes directly between the file and guest
//! memory.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use crate::devices::virtio::buffers::{Buffers, retry};
use crate::devices::virtio::vector::Vector;

/// Bytes in a sector, the unit of virtio-blk regardless of the disk's block size (5.2.4).
pub(super) const SECTOR: u64 = 512;

/// Written piece by piece if the file system can't make zeroes by itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// The file, and its properties when the disk was made.
pub(super) struct Image {
    file: File,
    sectors: u64,
    read_only: bool,
}

/// A part of the disk, checked to be within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// In bytes, like the length.
    offset: u64,
    length: u64,
}

impl Range {
    /// Returns how many bytes it has.
    pub(super) fn length(self) -> u64 {
        self.length
    }
}

/// What happens to the blocks of a range of zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocks {
    Kept,
    GivenBack,
}

impl Image {
    /// # Errors
    ///
    /// `InvalidInput` if `file` isn't a regular file of whole sectors that is opened for reading,
    /// or for reading and writing, at any offset and length; or the host's error.
    pub(super) fn new(file: File) -> io::Result<Image> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(invalid("the image is not a regular file"));
        }
        if metadata.len() % SECTOR != 0 {
            return Err(invalid("the image's size is not a multiple of 512 bytes"));
        }
        // SAFETY: a plain call on a file descriptor that `file` keeps open.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        // O_APPEND would write at the end whatever the sector; O_DIRECT wants buffers that guests
        // don't have to provide.
        if flags & (libc::O_APPEND | libc::O_DIRECT | libc::O_PATH) != 0 {
            return Err(invalid(
                "the image is opened with O_APPEND, O_DIRECT or O_PATH",
            ));
        }
        let read_only = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => true,
            libc::O_RDWR => false,
            _ => return Err(invalid("the image is not opened for reading")),
        };
        Ok(Image {
            file,
            sectors: metadata.len() / SECTOR,
            read_only,
        })
    }

    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Returns the `length` bytes from `sector` on, if they are whole sectors of the disk.
    pub(super) fn range(&self, sector: u64, length: u64) -> Option<Range> {
        let end = sector.checked_add(length / SECTOR)?;
        let within = length.is_multiple_of(SECTOR) && end <= self.sectors;
        within.then(|| Range {
            offset: sector * SECTOR,
            length,
        })
    }

    /// Fills `buffers`, which have the same length as `range`.
    pub(super) fn read(&self, range: Range, mut buffers: Buffers<'_>) -> io::Result<()> {
        let mut offset = range.offset;
        while !buffers.is_empty() {
            let count = Vector::from_buffers(&buffers).read_at(self.file.as_fd(), offset)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffers.take(count);
            offset += count as u64;
        }
        Ok(())
    }

    /// Writes `buffers`, which have the same length as `range`; `durable` means onto the medium.
    pub(super) fn write(
        &self,
        range: Range,
        mut buffers: Buffers<'_>,
        durable: bool,
    ) -> io::Result<()> {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let mut offset = range.offset;
        while !buffers.is_empty() {
            let count =
                Vector::from_buffers(&buffers).write_at(self.file.as_fd(), offset, flags)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            buffers.take(count);
            offset += count as u64;
        }
        Ok(())
    }

    /// Writes everything that has been written so far onto the medium.
    pub(super) fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data()
    }

    /// Gives the range's blocks back to the host's file system, if that supports it.
    pub(super) fn discard(&self, range: Range) -> io::Result<()> {
        match self.fallocate(libc::FALLOC_FL_PUNCH_HOLE, range) {
            Err(error) if is_unsupported(&error) => Ok(()),
            outcome => outcome,
        }
    }

    /// Makes the range zeroes.
    pub(super) fn write_zeroes(&self, range: Range, blocks: Blocks) -> io::Result<()> {
        let how = match blocks {
            Blocks::GivenBack => libc::FALLOC_FL_PUNCH_HOLE,
            Blocks::Kept => libc::FALLOC_FL_ZERO_RANGE,
        };
        match self.fallocate(how, range) {
            Err(error) if is_unsupported(&error) => self.write_zero_bytes(range),
            outcome => outcome,
        }
    }

    fn write_zero_bytes(&self, range: Range) -> io::Result<()> {
        let mut done = 0;
        while done < range.length {
            let piece = (range.length - done).min(ZEROES.len() as u64);
            self.file
                .write_all_at(&ZEROES[..piece as usize], range.offset + done)?;
            done += piece;
        }
        Ok(())
    }

    fn fallocate(&self, mode: i32, range: Range) -> io::Result<()> {
        if range.length == 0 {
            return Ok(());
        }
        let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
        // The range lies within a file's former size, so both are below 2^63.
        let (offset, length) = (range.offset as i64, range.length as i64);
        // SAFETY: a plain call on a file descriptor that `file` keeps open.
        retry(|| unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, length) } as isize)?;
        Ok(())
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[test]
    fn files_that_are_no_disk_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let file = File::create(&path).unwrap();
        file.set_len(4096 + 1).unwrap();
        let refused = |file: io::Result<File>| {
            let refused = Image::new(file.unwrap()).err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
            refused.to_string()
        };
        assert!(refused(File::open(&path)).contains("multiple of 512"));
        file.set_len(4096).unwrap();
        assert!(refused(Ok(file)).contains("not opened for reading"));
        let append = File::options().read(true).append(true).open(&path);
        assert!(refused(append).contains("O_APPEND"));
        let mut direct = File::options();
        direct.read(true).custom_flags(libc::O_DIRECT);
        // Not every file system supports it.
        if let Ok(direct) = direct.open(&path) {
            assert!(refused(Ok(direct)).contains("O_DIRECT"));
        }
        assert!(refused(File::open(directory.path())).contains("regular"));
        assert!(refused(File::open("/dev/null")).contains("regular"));

        assert!(Image::new(File::open(&path).unwrap()).unwrap().read_only);
        let both = File::options().read(true).write(true).open(&path);
        assert!(!Image::new(both.unwrap()).unwrap().read_only);
    }

    #[test]
    fn ranges_are_whole_sectors_of_the_disk() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * SECTOR).unwrap();
        let image = Image::new(file).unwrap();
        let range = |offset, length| Some(Range { offset, length });
        assert_eq!(image.range(0, 4096), range(0, 4096));
        assert_eq!(image.range(7, 512), range(3584, 512));
        assert_eq!(image.range(8, 0), range(4096, 0));
        for (sector, length) in [
            (0, 1),
            (0, 513),
            (0, 4096 + 512),
            (8, 512),
            (9, 0),
            (1 << 55, 512),
            (u64::MAX, 512),
            (u64::MAX, 0),
            (1, !511),
        ] {
            assert_eq!(image.range(sector, length), None, "{sector} {length}");
        }
    }
}
