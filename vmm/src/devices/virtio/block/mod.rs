//! The block device (virtio 1.3, section 5.2): a disk on a raw image.
//!
//! Each queue has a thread, which handles one request at a time, directly between the image and
//! guest memory: for a request the host allocates only the list of its parts, of which there are at
//! most as many as its queue has descriptors. What a disk takes from the host is its image's size,
//! and the page cache.
//!
//! A write is answered when the host's kernel has it, and is on the medium after a flush; or at
//! once if the driver doesn't support flushes or has turned the cache off. Discarded blocks and
//! zeroes become holes in the image.
//!
//! A queue that breaks stops; the others continue until the driver resets the device. A request is
//! always completed: [`reset`](super::VirtioDevice::reset) waits for it, as long as the host's file system takes.

mod device;
mod image;
mod limits;
mod request;

pub use device::{Block, MAX_QUEUES};
pub use limits::MAX_SERIAL;
