//! Guest memory that a process has none of but what a front end shows it.
//!
//! The front end may name any file. Only one that can't shrink is mapped: an access beyond the end
//! of a file would end this process. What a hostile front end does to its own memory meanwhile is
//! no more than what the guest can do to it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::memory::{MAX_MEMORY, MEMORY_GRANULE, advise};

/// How many regions a table may have: as many as every back end must accept.
const MAX_REGIONS: usize = 8;

/// A range of guest addresses, and what is there.
struct Range {
    guest: u64,
    length: u64,
    file: Arc<File>,
    offset: u64,
    /// The file's device and inode.
    identity: (u64, u64),
}

impl Range {
    fn new(region: &VhostUserMemoryRegion, file: File) -> Result<Range> {
        // The structure is packed.
        let (guest, length) = (region.guest_phys_addr, region.memory_size);
        let offset = region.mmap_offset;
        let refused = Error::InvalidOperation("a memory region that can't be mapped");
        let is_aligned = [guest, length, offset]
            .iter()
            .all(|number| number.is_multiple_of(MEMORY_GRANULE));
        // SAFETY: F_GET_SEALS takes no argument and touches no memory.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        let keeps_its_size = seals >= 0 && seals & libc::F_SEAL_SHRINK != 0;
        let metadata = file.metadata().map_err(Error::ReqHandlerError)?;
        let end = offset.checked_add(length);
        if !is_aligned
            || !keeps_its_size
            || length == 0
            || guest.checked_add(length).is_none()
            || end.is_none_or(|end| end > metadata.size())
        {
            return Err(refused);
        }
        Ok(Range {
            guest,
            length,
            file: Arc::new(file),
            offset,
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Adds the range that follows, if it does so in the file, too: QEMU's table has gaps, and ends
    /// of regions, where the machine's memory has none.
    fn extend(&mut self, next: &Range) -> bool {
        let follows = self.identity == next.identity
            && self.guest + self.length == next.guest
            && self.offset + self.length == next.offset;
        if follows {
            self.length += next.length;
        }
        follows
    }

    fn map(self) -> Result<GuestRegionMmap> {
        let failed = |error| Error::ReqHandlerError(std::io::Error::other(error));
        let backing = FileOffset::from_arc(self.file, self.offset);
        let mapping = MmapRegion::from_file(backing, self.length as usize).map_err(failed)?;
        advise(&mapping);
        GuestRegionMmap::new(mapping, GuestAddress(self.guest)).ok_or(Error::InvalidParam)
    }
}

/// Maps the memory of a table, whose regions are in these files.
pub(super) fn map(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<GuestMemoryMmap> {
    if regions.len() != files.len() || regions.len() > MAX_REGIONS {
        return Err(Error::InvalidOperation(
            "a memory table of too many regions",
        ));
    }
    let ranges = regions.iter().zip(files);
    let ranges = ranges.map(|(region, file)| Range::new(region, file));
    let mut ranges = ranges.collect::<Result<Vec<_>>>()?;
    let total = ranges
        .iter()
        .try_fold(0_u64, |sum, range| sum.checked_add(range.length));
    if total.is_none_or(|total| total > MAX_MEMORY) {
        return Err(Error::InvalidOperation("more memory than a machine has"));
    }
    ranges.sort_by_key(|range| range.guest);
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if !merged.last_mut().is_some_and(|last| last.extend(&range)) {
            merged.push(range);
        }
    }
    let mapped = merged.into_iter().map(Range::map);
    // This refuses those that overlap.
    GuestMemoryMmap::from_regions(mapped.collect::<Result<_>>()?)
        .map_err(|_| Error::InvalidOperation("memory regions that overlap"))
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemory};

    use super::*;
    use crate::memory::{MIN_MEMORY, create};

    /// Returns the file of a machine's memory.
    fn machine() -> (GuestMemoryMmap, File) {
        let memory = create(MIN_MEMORY).unwrap();
        let region = memory.iter().next().unwrap();
        let file = vm_memory::GuestMemoryRegion::file_offset(region).unwrap();
        let file = file.file().try_clone().unwrap();
        (memory, file)
    }

    fn try_map(table: &[(u64, u64, u64)], file: &File) -> Result<GuestMemoryMmap> {
        let region = |(guest, length, offset): &(u64, u64, u64)| {
            VhostUserMemoryRegion::new(*guest, *length, *guest, *offset)
        };
        let regions: Vec<_> = table.iter().map(region).collect();
        let files = table.iter().map(|_| file.try_clone().unwrap());
        map(&regions, files.collect())
    }

    #[test]
    fn a_machines_memory_is_mapped_in_one_piece() {
        let (memory, file) = machine();
        // In the order and with the gap that QEMU has.
        let table = [
            (0x20_0000, MIN_MEMORY - 0x20_0000, 0x20_0000),
            (0, 0xe_0000, 0),
            (0x10_0000, 0x10_0000, 0x10_0000),
        ];
        let mapped = try_map(&table, &file).unwrap();
        assert_eq!(mapped.num_regions(), 2);
        let at = GuestAddress(0x20_0000 - 4);
        memory.write_obj(0x1122_3344_5566_7788_u64, at).unwrap();
        assert_eq!(mapped.read_obj::<u64>(at).unwrap(), 0x1122_3344_5566_7788);
        assert!(mapped.read_obj::<u8>(GuestAddress(0xe_0000)).is_err());
    }

    #[test]
    fn memory_that_makes_trouble_is_refused() {
        let (_memory, file) = machine();
        let refused: [&[(u64, u64, u64)]; 7] = [
            &[(0, MIN_MEMORY + 0x1000, 0)],
            &[(0, MIN_MEMORY, 0x1000)],
            &[(0, 0, 0)],
            &[(0x10, 0x1000, 0)],
            &[(0, 0x1000, !0xfff)],
            &[(!0xfff, 0x1000, 0)],
            &[(0, 0x2000, 0), (0x1000, 0x1000, 0)],
        ];
        for table in refused {
            assert!(try_map(table, &file).is_err(), "{table:x?}");
        }
        let many: Vec<_> = (0..9).map(|index| (index << 20, 0x1000, 0)).collect();
        assert!(try_map(&many[1..], &file).is_ok());
        assert!(try_map(&many, &file).is_err());
        // It could be cut while it is in use.
        let plain = tempfile::tempfile().unwrap();
        plain.set_len(MIN_MEMORY).unwrap();
        assert!(try_map(&[(0, 0x1000, 0)], &plain).is_err());
    }
}
