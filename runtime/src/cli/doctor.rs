//! The flags of `nacre doctor`.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: ReportFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For a person
    Text,
    /// For a program
    Json,
}
