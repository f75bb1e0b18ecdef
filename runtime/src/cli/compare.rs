//! The flags of `nacre compare` and `nacre boot`.

use std::path::PathBuf;

use clap::Args;

use super::events::Interval;

#[derive(Debug, Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    pub(crate) workload: Workload,
    /// How often the workload runs in each mode, after one run of each that isn't counted
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) runs: u16,
    /// Write the result to this file too, as JSON (- for standard output, instead of the tables)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the result to this file too, as a page of HTML
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Boot {
    #[command(flatten)]
    pub(crate) workload: Workload,
    /// Write the phases to this file too, as JSON (- for standard output, instead of the table)
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write them to this file too, as a trace that Perfetto and chrome://tracing open
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// What is run.
#[derive(Debug, Args)]
pub(crate) struct Workload {
    /// The directory with config.json and the root file system
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// How long one run may take before it is killed, such as 90s or 5m
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(crate) timeout: Interval,
    /// What is run instead of the bundle's process.args
    #[arg(last = true, value_name = "ARG")]
    pub(crate) arguments: Vec<String>,
}
