//! The network device (virtio 1.3, section 5.1) on a tap of the host.
//!
//! Each pair of queues has a thread and a queue of the tap. Packets go directly between the tap and
//! guest memory, whole or, if both sides support segmentation and checksum offload, up to 64 KiB of
//! them at a time. What the guest sends waits in its queue while the host has no room for it, and
//! what arrives while the guest has none waits in the tap, which drops what exceeds its queue's
//! length. Neither side is polled before it has something.
//!
//! Everything that arrives at the tap is the guest's: there are no filters and no commands to set
//! them (5.1.6.5.1 to 3), without which a driver such as Linux's accepts what arrives. UDP
//! fragmentation (UFO) isn't offered, since kernels haven't done it since 2017; UDP segmentation
//! (USO) is, if the host's kernel can do it.
//!
//! What a guest can make the host allocate: for each pair of queues a spill of 64 KiB and what
//! describes the chains that one packet may need, some 100 KiB; and what it sends, for as long as
//! that is on its way through the host's kernel, whose queues are limited.
//!
//! A queue that breaks stops together with its pair; the others continue until the driver resets
//! the device. When the tap goes away, what the guest sends is dropped, and nothing arrives. The
//! link is down then, which the driver learns from a transport that shows it this configuration:
//! vhost-user doesn't.
//!
//! With a transport that keeps the control queue for itself, as vhost-user's front end does, the
//! device uses as many pairs as are set up.

#[cfg(any(test, fuzzing))]
pub(crate) mod bare;
mod control;
mod device;
mod header;
mod pair;
mod receive;
mod slot;
mod tap;
mod transmit;
mod turn;

pub use device::{MIN_MTU, Net, queue_pairs};
pub(crate) use slot::NetSlot;
pub use tap::{MAX_QUEUE_PAIRS, Tap, TapError};
