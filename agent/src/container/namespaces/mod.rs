//! A container's namespaces, and what is set in them.

pub(crate) mod entry;
pub(crate) mod host;
pub(crate) mod id_map;
pub(crate) mod loopback;
pub(crate) mod net_devices;
pub(crate) mod sysctl;
