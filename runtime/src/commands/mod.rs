//! The commands, each in a file of its name.

mod checkpoint;
mod compare;
mod console;
mod containers;
mod create;
mod delete;
mod dispatch;
mod doctor;
mod error;
mod events;
mod exec;
mod exec_process;
mod features;
mod kill;
mod list;
mod output;
mod pause;
mod protect;
mod ps;
mod run;
mod spec;
mod start;
mod state;
mod table;
mod top;
mod update;
mod update_resources;

pub(crate) use dispatch::dispatch;
pub(crate) use error::Error;
pub(crate) use protect::{protect, surely_enter_a_container};
