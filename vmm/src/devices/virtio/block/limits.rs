//! What one request may ask for.

use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

/// The maximum length of a serial number, in bytes.
pub const MAX_SERIAL: usize = VIRTIO_BLK_ID_BYTES as usize;

/// One request discards at most 16 times 2 GiB and makes at most 64 MiB of zeroes, which may have
/// to be written: a request shouldn't take long.
pub(super) const MAX_DISCARD_RANGES: usize = 16;
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
pub(super) const MAX_ZEROES_RANGES: usize = 1;
pub(super) const MAX_ZEROES_SECTORS: u32 = 1 << 17;
