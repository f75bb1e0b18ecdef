//! Everything that decides how a container runs, besides its `config.json`: the configuration file,
//! nacre's own annotations, and what follows from them.

pub(crate) mod annotations;
mod asked_rate;
pub(crate) mod bundle;
mod bytes;
mod capabilities;
mod cpu_list;
mod error;
mod file;
pub(crate) mod hypervisor;
mod isolation;
pub(crate) mod keys;
pub(crate) mod nested;
pub(crate) mod rates;
mod root_kind;
pub(crate) mod rootfs;
pub(crate) mod size;

pub(crate) use bytes::{Bytes, NotASize};
pub(crate) use capabilities::CAPABILITIES;
pub(crate) use error::ConfigError;
pub(crate) use file::{Config, VmSettings};
pub(crate) use isolation::{Choice, Isolation, LessIsolation};
