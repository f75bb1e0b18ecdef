//! The door through which file system requests come.
//!
//! virtiofsd reads descriptors and the heads of requests in place, some of them more than once, and
//! relies on their contents. So it gets neither from the guest: a request's head is copied and
//! checked, and the chain that virtiofsd sees is one of our own that begins with the copy. Names
//! and data stay where they are; virtiofsd reads those once.

use std::io;

use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::server::Server;
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileSlice,
};

use crate::devices::virtio::queue::Chain;

/// `struct fuse_in_header` and `struct fuse_out_header`.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

/// `struct fuse_write_in`.
const WRITE_IN: usize = 40;

/// How much of a request is copied: more than the header and any fixed structure after it.
const HEAD: usize = 256;

/// The maximum length of a chain: that of the largest queue, one more descriptor for the copy,
/// rounded up.
const TABLE: u16 = 1024;

// The layout of the memory in addition to the guest's.
const TABLE_OFFSET: usize = 4096;
const AVAILABLE_OFFSET: usize = TABLE_OFFSET + TABLE as usize * size_of::<Descriptor>();
const BESIDE_SIZE: usize = AVAILABLE_OFFSET + 4096;

// Requests (`enum fuse_opcode`) that the door inspects.
const FORGET: u32 = 2;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;
const COPY_FILE_RANGE: u32 = 47;

/// virtiofsd requires memory that could log writes to it, of a type without a public name; this is
/// a way to name it nevertheless.
trait OfBitmap {
    type Bitmap;
}

impl<B> OfBitmap for Reader<'_, B> {
    type Bitmap = B;
}

type Space = GuestMemoryMmap<<Reader<'static> as OfBitmap>::Bitmap>;

/// The door. In it, guest memory and that of the copies form one address space, with the same
/// addresses as in this process.
pub(super) struct Door {
    space: Space,
    queue: Queue,
    head: GuestAddress,
    table: GuestAddress,
    available: GuestAddress,
    /// Whether the host copies within and between files.
    copies: bool,
}

impl Door {
    /// `memory` must outlive the door.
    pub(super) fn new(memory: &GuestMemoryMmap) -> io::Result<Door> {
        let mut regions = Vec::new();
        for region in memory.iter() {
            // SAFETY: the mapping lives as long as `memory`, which outlives this.
            let alias = unsafe {
                MmapRegion::build_raw(
                    region.as_ptr(),
                    region.size(),
                    region.prot(),
                    region.flags(),
                )
            };
            regions.push(alias.map_err(io::Error::other)?);
        }
        let beside = MmapRegion::new(BESIDE_SIZE).map_err(io::Error::other)?;
        let base = beside.as_ptr() as u64;
        regions.push(beside);
        regions.sort_by_key(|region| region.as_ptr());
        let regions = regions.into_iter().map(|region| {
            let start = GuestAddress(region.as_ptr() as u64);
            GuestRegionMmap::new(region, start).ok_or(io::ErrorKind::InvalidInput)
        });
        let regions = regions.collect::<Result<Vec<_>, _>>()?;

        let at = |offset: usize| GuestAddress(base + offset as u64);
        let [head, table, available] = [at(0), at(TABLE_OFFSET), at(AVAILABLE_OFFSET)];
        let mut queue = Queue::new(TABLE).map_err(io::Error::other)?;
        queue
            .try_set_desc_table_address(table)
            .and_then(|()| queue.try_set_avail_ring_address(available))
            .map_err(io::Error::other)?;
        queue.set_ready(true);
        Ok(Door {
            space: Space::from_regions(regions).map_err(io::Error::other)?,
            queue,
            head,
            table,
            available,
            copies: true,
        })
    }

    /// Has the guest itself read and write what it copies.
    pub(super) fn without_copies(self) -> Door {
        Door {
            copies: false,
            ..self
        }
    }

    /// Has `server` answer a request. Returns the length of the answer in bytes, 0 for a request
    /// that gets none.
    pub(super) fn serve<F: FileSystem + Sync>(
        &mut self,
        server: &Server<F>,
        chain: &mut Chain<'_>,
    ) -> usize {
        let length = chain.readable.len();
        let mut head = [0; HEAD];
        let mut copied = chain.readable.read(&mut head[..IN_HEADER]);
        // The data to be written stays in one piece: O_DIRECT needs the guest's alignment.
        let end = match Head(&head[..copied]).u32(4) {
            Some(WRITE) => IN_HEADER + WRITE_IN,
            _ => HEAD,
        };
        copied += chain.readable.read(&mut head[copied..end]);
        let head = Head(&head[..copied]);
        let (Some(opcode), Some(unique)) = (head.u32(4), head.u64(8)) else {
            return 0;
        };
        let checked = match opcode {
            COPY_FILE_RANGE if !self.copies => Err(libc::ENOSYS),
            _ => check(&head, opcode, length, chain.writable.len()),
        };
        let outcome = checked.and_then(|()| {
            let (reader, writer) = self.lay_out(head.0, chain).map_err(|_| libc::EIO)?;
            // An error means that the request isn't understood; virtiofsd answers all others.
            server
                .handle_message(reader, writer, None::<&mut ()>)
                .map_err(|_| libc::EINVAL)
        });
        match outcome {
            Ok(written) => written,
            Err(_) if chain.writable.len() < OUT_HEADER => 0,
            Err(error) => {
                let mut answer = [0; OUT_HEADER];
                answer[..4].copy_from_slice(&(OUT_HEADER as u32).to_le_bytes());
                answer[4..8].copy_from_slice(&(-error).to_le_bytes());
                answer[8..].copy_from_slice(&unique.to_le_bytes());
                chain.writable.write(&answer)
            }
        }
    }

    /// Builds the chain that virtiofsd sees, and the reader and writer for it.
    fn lay_out(
        &mut self,
        head: &[u8],
        chain: &Chain<'_>,
    ) -> Result<(Reader<'_>, Writer<'_>), virtio_queue::Error> {
        let describe = |part: &VolatileSlice<'_>, write: u32| {
            let address = part.ptr_guard().as_ptr() as u64;
            (address, part.len() as u32, write)
        };
        let copy = (self.head.0, head.len() as u32, 0);
        let readable = chain.readable.parts().iter().map(|p| describe(p, 0));
        let writable = chain.writable.parts().iter().map(|p| describe(p, WRITABLE));
        let parts = std::iter::once(copy).chain(readable).chain(writable);
        let count = 1 + chain.readable.parts().len() + chain.writable.parts().len();
        if count > usize::from(TABLE) {
            return Err(virtio_queue::Error::InvalidChain);
        }
        self.space.write(head, self.head).map_err(memory_error)?;
        for ((address, length, flag), index) in parts.zip(0u16..) {
            let more = usize::from(index) + 1 < count;
            let flags = flag | if more { NEXT } else { 0 };
            let descriptor = Descriptor::new(address, length, flags as u16, index + 1);
            let at = GuestAddress(self.table.0 + u64::from(index) * size_of::<Descriptor>() as u64);
            self.space
                .write_obj(RawDescriptor::from(descriptor), at)
                .map_err(memory_error)?;
        }
        // The ring is all zeroes, so whichever entry is next, it names the first descriptor.
        let next = self.queue.next_avail().wrapping_add(1);
        let index_at = GuestAddress(self.available.0 + 2);
        self.space
            .write_obj(next.to_le(), index_at)
            .map_err(memory_error)?;
        let own = self
            .queue
            .iter(&self.space)?
            .next()
            .ok_or(virtio_queue::Error::InvalidChain)?;
        let reader = Reader::new(&self.space, own.clone());
        let writer = Writer::new(&self.space, own);
        match (reader, writer) {
            (Ok(reader), Ok(writer)) => Ok((reader, writer)),
            _ => Err(virtio_queue::Error::InvalidChain),
        }
    }
}

const NEXT: u32 = virtio_bindings::virtio_ring::VRING_DESC_F_NEXT;
const WRITABLE: u32 = virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;

fn memory_error(error: vm_memory::GuestMemoryError) -> virtio_queue::Error {
    virtio_queue::Error::GuestMemory(error)
}

/// The copied beginning of a request.
struct Head<'a>(&'a [u8]);

impl Head<'_> {
    fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = self.0.get(offset..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        let bytes = self.0.get(offset..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}

/// Refuses, with an error number, what virtiofsd must not see.
fn check(head: &Head<'_>, opcode: u32, readable: usize, writable: usize) -> Result<(), i32> {
    const MALFORMED: i32 = libc::EINVAL;
    let length = head.u32(0).ok_or(MALFORMED)? as usize;
    if length < IN_HEADER || length > readable {
        return Err(MALFORMED);
    }
    let answered = !matches!(opcode, FORGET | BATCH_FORGET | INTERRUPT | DESTROY);
    if answered && writable < OUT_HEADER {
        return Err(MALFORMED);
    }
    match opcode {
        // Offsets beyond the maximum of a file.
        READ | WRITE => {
            let offset = head.u64(IN_HEADER + 8).ok_or(MALFORMED)?;
            let size = head.u32(IN_HEADER + 16).ok_or(MALFORMED)?;
            let end = offset.checked_add(u64::from(size)).ok_or(MALFORMED)?;
            i64::try_from(end).map_err(|_| MALFORMED)?;
        }
        _ => {}
    }
    Ok(())
}
