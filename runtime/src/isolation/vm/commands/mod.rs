//! The commands, which have a container's sandbox process do what is asked.

mod client;
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
pub(super) use client::ClientError;
pub(crate) use difference::difference;
pub(crate) use events::{Event, stats, watch};
pub(super) use exec::TIMEOUT as EXEC_TIMEOUT;
pub(crate) use exec::exec;
pub(crate) use kill::{end, kill};
pub(crate) use pause::{pause, resume};
pub(crate) use ps::{pids, processes, ps_table};
pub(crate) use start::start;
pub(crate) use update::{UpdateError, update};
