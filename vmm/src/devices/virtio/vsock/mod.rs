//! The socket device (virtio 1.3, section 5.10): stream connections that the guest opens to
//! ports of the host (CID 2), each ending in a Unix socket of this process.
//!
//! The host says on which ports it expects a connection ([`Ports::expect`]); a port serves one
//! connection, and the guest gets a reset on all others.
//!
//! What a guest can make the host allocate: [`MAX_CONNECTIONS`] connections, as far as the host
//! expects that many; for each, what is in the two sockets' kernel buffers and at most
//! [`connection::RECEIVE_WINDOW`] bytes that the host hasn't read yet; and a fixed number of
//! pending resets.

mod connection;
mod device;
mod packet;
mod ports;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Vsock;
pub use packet::HOST_CID;
pub use ports::{MAX_CONNECTIONS, Ports};
