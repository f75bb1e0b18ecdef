//! Carries the contents of a network namespace: [read](Netlink::read) from the container's on the
//! host, and [written](CarriedNetwork) into the container's in a guest.
//!
//! What is carried are interfaces, their addresses and permanent neighbours, and the routes of the main
//! table. What follows from these is left to the kernel: the routes that come with an address,
//! neighbours that answer, and what an IPv6 router announces, which the guest hears itself.

mod carried;
pub mod message;
mod model;
mod name;
mod netlink;
mod read;
mod write;

pub use carried::{CarriedNetwork, CarryError, Nics};
pub use model::{Address, Hop, Interface, Neighbour, Network, Nic, Route};
pub use name::is_name;
pub use netlink::{Netlink, Watch};
#[cfg(fuzzing)]
pub(crate) use read::fuzz_answers;
pub use read::{Link, Namespace};
