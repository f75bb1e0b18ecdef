//! Isolation by a microVM: a container's plan, the sandbox process that carries it out, and the
//! commands, which ask that process for what they are to do.

mod commands;
mod control;
mod create;
mod error;
mod filter;
mod found;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod guest_spec;
mod heir;
mod limits;
mod link;
mod network;
mod options;
mod own_namespace;
mod plan;
mod sandbox;
mod seen_mounts;
mod stand_in;
mod stdio;
mod streams;
mod terminal;
mod wire;

pub(crate) use commands::{
    VmEvent, confinement, difference, end, end_as_last_resort, exec, kernel_log, kill, pause, pids,
    processes, ps_table, resume, start, stats, update, watch,
};
pub(crate) use create::{become_root, run};
pub(crate) use error::{VmError, failure};
pub(crate) use found::VmContainer;
pub(crate) use options::{RunMode, VmOptions};
pub(crate) use own_namespace::has_subordinate_ids;
