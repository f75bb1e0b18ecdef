//! The commands, which ask a container's sandbox process for what they are to do.

mod client;
mod confinement;
mod console;
mod difference;
mod events;
mod exec;
mod kill;
mod pause;
mod ps;
mod start;
mod update;

#[cfg(test)]
pub(super) use client::Client;
pub(crate) use confinement::confinement;
pub(crate) use console::kernel_log;
pub(crate) use difference::difference;
pub(crate) use events::{VmEvent, stats, watch};
pub(crate) use exec::exec;
pub(crate) use kill::{end, end_as_last_resort, kill};
pub(crate) use pause::{pause, resume};
pub(crate) use ps::{pids, processes, ps_table};
pub(crate) use start::start;
pub(crate) use update::update;
