//! Cgroups that systemd makes: a container is a *scope*, a unit of processes that systemd didn't
//! start itself ([its document on this](https://systemd.io/CGROUP_DELEGATION/)).
//!
//! How to reach systemd is up to the caller ([`Units`]): the engine itself speaks no D-Bus. systemd
//! makes the scope's cgroup with the limits that it knows, so that it won't undo them, and
//! delegates it; the engine then writes all limits itself. The scope ends by itself when it is
//! empty.

mod holder;
mod properties;
mod scope;
mod unit;
mod units;

pub(crate) use holder::Holder;
pub use properties::{Property, Value};
pub(super) use scope::{check, create, default_path};
pub use units::Units;
