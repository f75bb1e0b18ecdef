//! Guest memory: one sealed memfd, mapped shared.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionCollectionError, GuestRegionMmap, MmapRegion,
};

use crate::arch::memory_ranges;

/// The least memory that a machine can have.
pub const MIN_MEMORY: u64 = 64 << 20;
/// The most memory that a machine can have.
pub const MAX_MEMORY: u64 = 1 << 40;
/// A machine's memory is a multiple of this.
pub const MEMORY_GRANULE: u64 = 4096;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The size is out of bounds or not a multiple of the granule.
    #[error(
        "{0} bytes is not a size for guest memory: it is a multiple of {MEMORY_GRANULE} \
         from {MIN_MEMORY} to {MAX_MEMORY}"
    )]
    Size(u64),
    /// The file that holds the memory could not be made.
    #[error("creating a memory file")]
    File(#[source] io::Error),
    /// The memory could not be mapped.
    #[error("mapping guest memory")]
    Map(#[from] MmapRegionError),
    /// The mappings don't fit together.
    #[error("arranging guest memory")]
    Arrange(#[from] GuestRegionCollectionError),
}

/// Creates `size` bytes of guest memory. None of it is resident yet.
pub(crate) fn create(size: u64) -> Result<GuestMemoryMmap, MemoryError> {
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) || !size.is_multiple_of(MEMORY_GRANULE) {
        return Err(MemoryError::Size(size));
    }
    let file = Arc::new(memory_file(size).map_err(MemoryError::File)?);
    let mut offset = 0;
    let mut regions = Vec::new();
    for (start, len) in memory_ranges(size) {
        let backing = FileOffset::from_arc(Arc::clone(&file), offset);
        // The size has been checked against MAX_MEMORY: a usize holds it.
        let mapping = MmapRegion::from_file(backing, len as usize)?;
        advise(&mapping);
        let region = GuestRegionMmap::new(mapping, start).ok_or(MemoryError::Size(size))?;
        debug_assert_eq!(region.len(), len);
        regions.push(region);
        offset += len;
    }
    Ok(GuestMemoryMmap::from_regions(regions)?)
}

/// Creates a memfd whose size is fixed to `size` bytes: a device process that is given it can't
/// truncate it under us.
fn memory_file(size: u64) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe {
        libc::memfd_create(
            c"guest-memory".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an int and touches no memory of ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// Copies `len` bytes of `file`, from `offset`, to `address`.
///
/// The kernel copies them directly from the page cache into the memory's file. Reading them into
/// the mapping would cost a page fault per page, and each page would be zeroed before it is
/// overwritten.
///
/// # Errors
///
/// If the range isn't wholly in one region of guest memory, or the file is too short
/// ([`io::ErrorKind::UnexpectedEof`]) or can't be read.
pub(crate) fn copy_from_file(
    memory: &GuestMemoryMmap,
    address: GuestAddress,
    file: &File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    let outside = || io::Error::new(io::ErrorKind::InvalidInput, "outside of guest memory");
    let (region, start) = memory.to_region_addr(address).ok_or_else(outside)?;
    let start = start.raw_value();
    if start.checked_add(len).is_none_or(|end| end > region.len()) {
        return Err(outside());
    }
    let Some(backing) = region.file_offset() else {
        return read_from_file(memory, address, file, offset, len);
    };
    let mut target = backing.file();
    target.seek(SeekFrom::Start(backing.start() + start))?;

    let mut from = libc::off_t::try_from(offset).map_err(|_| outside())?;
    let mut left = len;
    while left > 0 {
        // SAFETY: both descriptors are open files; `from` is a value on this stack.
        let sent = unsafe {
            libc::sendfile(
                target.as_raw_fd(),
                file.as_raw_fd(),
                &mut from,
                left as usize,
            )
        };
        match u64::try_from(sent) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => left -= sent,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                // A file system that doesn't support it.
                error if error.raw_os_error() == Some(libc::EINVAL) && left == len => {
                    return read_from_file(memory, address, file, offset, len);
                }
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Does the same as [`copy_from_file`], for any file.
fn read_from_file(
    memory: &GuestMemoryMmap,
    address: GuestAddress,
    mut file: &File,
    offset: u64,
    len: u64,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset))?;
    let mut done = 0;
    while done < len {
        let to = address.checked_add(done);
        let to = to.ok_or(io::ErrorKind::InvalidInput)?;
        let read = memory
            .read_volatile_from(to, &mut file, (len - done) as usize)
            .map_err(io::Error::other)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done += read as u64;
    }
    Ok(())
}

/// Keeps guest memory out of core dumps: it is large, and it is the guest's. Asks for huge pages,
/// which the host may give to such files (it doesn't by default, see
/// `/sys/kernel/mm/transparent_hugepage/shmem_enabled`): each saves up to 511 exits.
pub(crate) fn advise(mapping: &MmapRegion) {
    for advice in [libc::MADV_DONTDUMP, libc::MADV_HUGEPAGE] {
        // SAFETY: the range is that of the mapping, and the advice changes none of its
        // contents. It is only advice: a failure changes nothing.
        unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress, GuestMemory};

    use super::*;

    #[test]
    fn sizes_are_checked() {
        for size in [0, MIN_MEMORY - 4096, MIN_MEMORY + 1, MAX_MEMORY + 4096] {
            assert!(matches!(create(size), Err(MemoryError::Size(s)) if s == size));
        }
    }

    #[test]
    fn memory_goes_on_above_the_hole() {
        let memory = create(5 << 30).unwrap();
        assert_eq!(memory.num_regions(), 2);
        let top = GuestAddress((1 << 32) + (5 << 30) - 0xc000_0000 - 8);
        memory.write_obj(0x1122_3344_5566_7788u64, top).unwrap();
        memory
            .write_obj(1u64, GuestAddress(0xc000_0000 - 8))
            .unwrap();
        assert!(memory.write_obj(1u8, GuestAddress(0xc000_0000)).is_err());
        assert!(memory.write_obj(1u64, GuestAddress(top.0 + 1)).is_err());
    }

    /// Makes a file with a byte pattern, and guest memory whose start has been filled from it by
    /// `copy`, from offset 100 to address 0x1_0010.
    fn copied(
        len: u64,
        copy: fn(&GuestMemoryMmap, GuestAddress, &File, u64, u64) -> io::Result<()>,
    ) -> io::Result<Vec<u8>> {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile()?;
        io::Write::write_all(&mut file, &bytes)?;
        let memory = create(MIN_MEMORY).unwrap();
        let address = GuestAddress(0x1_0010);
        copy(&memory, address, &file, 100, len)?;
        let mut read = vec![0; len as usize + 1];
        memory.read_slice(&mut read, address).unwrap();
        assert_eq!(read.pop(), Some(0));
        assert_eq!(read, bytes[100..][..len as usize]);
        Ok(read)
    }

    #[test]
    fn files_are_copied_to_their_place() {
        for copy in [copy_from_file, read_from_file] {
            copied(9_900, copy).unwrap();
            copied(1, copy).unwrap();
            copied(0, copy).unwrap();
            let error = copied(9_901, copy).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn nothing_is_copied_outside_of_memory() {
        let memory = create(MIN_MEMORY).unwrap();
        let file = tempfile::tempfile().unwrap();
        for (address, len) in [(MIN_MEMORY, 1), (MIN_MEMORY - 1, 2), (0, u64::MAX)] {
            let error = copy_from_file(&memory, GuestAddress(address), &file, 0, len);
            assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_file_cannot_change_its_size() {
        let file = memory_file(MIN_MEMORY).unwrap();
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(MIN_MEMORY * 2).is_err());
    }
}
