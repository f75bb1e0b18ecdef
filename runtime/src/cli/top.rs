//! The flags of `nacre top`.

use clap::{Args, ValueEnum};

use super::events::Interval;

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// How long after one another to look, such as 2s or 500ms
    #[arg(long, value_name = "TIME", default_value = "2s")]
    pub(crate) interval: Interval,
    /// By what the containers are in order
    #[arg(long, value_name = "COLUMN", default_value = "cpu")]
    pub(crate) sort: Sort,
    /// Print one table, and end; so it is, too, when standard output isn't a terminal
    #[arg(long)]
    pub(crate) once: bool,
}

/// A column that containers can be ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// CPU time, the most first
    Cpu,
    /// Memory on the host, the most first
    Memory,
    /// The container's id
    Id,
}
