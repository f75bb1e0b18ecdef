//! Isolation by the host kernel's namespaces and cgroups: the engine (`nacre_agent::container`),
//! called on the host. No process of nacre's stays behind with a container; each command finds it
//! again by its record.

mod checkpoint;
mod confinement;
mod create;
mod criu_error;
mod delete;
mod descriptors;
mod error;
mod events;
mod exec;
mod foreground;
mod found;
mod kill;
mod pause;
mod ps;
mod run;
mod start;
mod terminal;
mod update;

pub(crate) use checkpoint::{checkpoint, restore};
pub(crate) use confinement::confinement;
pub(crate) use create::{CreateRequest, create};
pub(crate) use delete::{destroy, end};
pub(crate) use error::ProcessError;
pub(crate) use events::{HostEvent, stats, watch};
pub(crate) use exec::exec;
pub(crate) use found::HostContainer;
pub(crate) use kill::kill;
pub(crate) use pause::{pause, resume};
pub(crate) use ps::{pids, table};
pub(crate) use run::{RunOptions, run};
pub(crate) use start::start;
pub(crate) use update::update;
