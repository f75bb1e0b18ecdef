//! The command line. Flags have runc's names and meanings, so that what calls runc can call
//! nacre.

mod checkpoint;
mod command_line;
mod compare;
mod container;
mod doctor;
mod events;
mod exec;
mod help;
mod spec;
mod top;
mod update;
mod words;

pub(crate) use checkpoint::{Checkpoint, Criu, ManageCgroups, Restore};
pub(crate) use command_line::{Cli, Command, Global, Rootless};
pub(crate) use compare::{Boot, Compare, Workload};
pub(crate) use container::{Container, Create, Delete, Kill, List, Ps, Run};
pub(crate) use doctor::{Doctor, ReportFormat};
pub(crate) use events::Events;
pub(crate) use exec::Exec;
pub(crate) use spec::Spec;
pub(crate) use top::{Sort, Top};
pub(crate) use update::{Limit, Update};
pub(crate) use words::Format;
