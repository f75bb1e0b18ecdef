//! nacre's container engine and the agent's protocol.
//!
//! The engine ([`container`]) turns an OCI `config.json` into a running workload on the kernel it
//! runs on: the guest's if the agent calls it, or the host's if the runtime does. The protocol
//! ([`protocol`]) is what the runtime and the agent say to each other over vsock. What both do with
//! network interfaces is in [`network`].

pub mod container;
#[cfg(fuzzing)]
pub mod fuzz;
pub mod network;
pub mod protocol;
pub mod stats;
