//! nacre's container engine and the agent's protocol.
//!
//! The engine ([`container`]) turns an OCI `config.json` into a running workload on
//! whatever kernel it runs on: the guest's, called by the agent, or the host's, called by
//! the runtime. The protocol ([`protocol`]) is what the runtime and the agent say to each
//! other over vsock. What both do with network interfaces is in [`network`].

pub mod container;
pub mod network;
pub mod protocol;
