//! The memory table: where a front end has mapped the machine's memory.
//!
//! In the process that made the machine nothing is mapped because of it: its memory already is. The
//! table says how to interpret the addresses that a front end uses for rings, which are its own. A
//! region that isn't a piece of the machine's memory, in the file that holds it and at its place, is
//! refused.

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

/// Pieces of guest memory, by the front end's addresses.
#[derive(Default)]
pub(super) struct MemoryTable(Vec<Piece>);

struct Piece {
    theirs: u64,
    length: u64,
    guest: GuestAddress,
}

impl MemoryTable {
    /// Makes the table, if all of it is in the machine's `memory`.
    pub(super) fn check(
        regions: &[VhostUserMemoryRegion],
        files: &[File],
        memory: &GuestMemoryMmap,
    ) -> Result<MemoryTable> {
        if regions.len() != files.len() {
            return Err(Error::InvalidParam);
        }
        let pieces = regions.iter().zip(files).map(|(region, file)| {
            piece(region, file, memory).ok_or(Error::InvalidOperation(
                "a memory region isn't the machine's",
            ))
        });
        Ok(MemoryTable(pieces.collect::<Result<_>>()?))
    }

    /// Makes the table for memory that was mapped as it says.
    pub(super) fn of(regions: &[VhostUserMemoryRegion]) -> Result<MemoryTable> {
        let pieces = regions.iter().map(|region| {
            // The structure is packed.
            let (theirs, length) = (region.user_addr, region.memory_size);
            let guest = GuestAddress(region.guest_phys_addr);
            theirs.checked_add(length).ok_or(Error::InvalidParam)?;
            Ok(Piece {
                theirs,
                length,
                guest,
            })
        });
        Ok(MemoryTable(pieces.collect::<Result<_>>()?))
    }

    /// Translates one of the front end's addresses into the guest's.
    pub(super) fn translate(&self, address: u64) -> Option<GuestAddress> {
        self.0.iter().find_map(|piece| {
            let offset = address.checked_sub(piece.theirs)?;
            (offset < piece.length).then(|| piece.guest.checked_add(offset))?
        })
    }
}

/// Returns a region of the table, if it is a piece of `memory`.
fn piece(region: &VhostUserMemoryRegion, file: &File, memory: &GuestMemoryMmap) -> Option<Piece> {
    // The structure is packed.
    let (guest, length) = (GuestAddress(region.guest_phys_addr), region.memory_size);
    let (theirs, file_offset) = (region.user_addr, region.mmap_offset);
    let ours = memory.find_region(guest)?;
    let offset = guest.unchecked_offset_from(ours.start_addr());
    if length == 0 || offset.checked_add(length)? > ours.len() {
        return None;
    }
    theirs.checked_add(length)?;
    let backing = ours.file_offset()?;
    if backing.start().checked_add(offset)? != file_offset {
        return None;
    }
    let identity = |file: &File| file.metadata().ok().map(|m| (m.dev(), m.ino()));
    (identity(file)? == identity(backing.file())?).then_some(Piece {
        theirs,
        length,
        guest,
    })
}
