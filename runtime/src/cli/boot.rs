//! The flags of `nacre boot`.

use std::path::PathBuf;

use clap::Args;

use super::events::Interval;

#[derive(Debug, Args)]
pub(crate) struct Boot {
    /// The directory with config.json and the root file system
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// How long the workload may take before it is killed, such as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(crate) timeout: Interval,
    /// Write the phases to this file too, as JSON (- for standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write them to this file too, as a trace that Perfetto and chrome://tracing open
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// What is run instead of the bundle's process.args
    #[arg(last = true, value_name = "ARG")]
    pub(crate) arguments: Vec<String>,
}
