//! The vhost-user transport (QEMU's docs/interop/vhost-user.rst): its *front end* shows the guest a
//! device, and hands its queues over a socket to the device in a *back end*, which works on them in
//! the guest's memory just as it does behind [`mmio`](super::mmio).
//!
//! QEMU is a front end, and [`RemoteDevice`] is one for a machine that KVM runs. Devices here are
//! the back ends, in this process or in one that was forked from it.
//!
//! A front end isn't trusted: a hostile guest may have taken it over. Everything that it sends is
//! checked here, before the device gets it: the memory that it names must be the machine's own
//! ([`memory`]) or, in a process without any, can be none that makes trouble ([`shown`]); rings must
//! lie in it; and what it must not do ends the machine. The crate `vhost` reads the messages.
//! (`vhost-user-backend` isn't used: it maps whatever memory it is told about, and owns queues and
//! threads, which the devices here already have.)

mod backend;
mod events;
mod memory;
mod remote;
mod serve;
mod shown;

pub(crate) use backend::Memory;
pub(crate) use events::prepare;
pub use remote::RemoteDevice;
pub(crate) use serve::{Connection, Socket};
