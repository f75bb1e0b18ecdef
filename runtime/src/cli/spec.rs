//! The flags of `nacre spec`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// The directory to write config.json into
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub(crate) bundle: PathBuf,
    /// Write one for a user without privileges (whose network is the host's: no VM takes it)
    #[arg(long)]
    pub(crate) rootless: bool,
}
