//! Devices of the machine.

pub(crate) mod bus;
pub mod virtio;
