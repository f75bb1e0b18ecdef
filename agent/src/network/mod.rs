//! What a network namespace has: [read](Netlink::read) from the container's on the host, and
//! [written](Carried) into the container's in a guest.
//!
//! *Carried* are interfaces, their addresses and permanent neighbours, and the routes of the main
//! table. What follows from these is left to the kernel: the routes that come with an address,
//! neighbours that answer, and what an IPv6 router announces, which the guest hears itself.

mod carried;
pub mod message;
mod model;
mod netlink;
mod read;
mod write;

pub use carried::{Carried, CarryError, Nics};
pub use model::{Address, Hop, Interface, Neighbour, Network, Nic, Route};
pub use netlink::{Netlink, Watch};
pub use read::{Link, Namespace};

/// The kernel's limit on interfaces' names, in bytes (`IFNAMSIZ` counts a NUL).
const MAX_NAME: usize = 15;

/// Whether the kernel takes it as an interface's name; but for `%`, of which it would make a
/// number.
pub fn is_name(name: &str) -> bool {
    let forbidden =
        |b: u8| b.is_ascii_whitespace() || b == 0x0b || matches!(b, b'/' | b':' | b'%' | 0);
    (1..=MAX_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(forbidden)
}
