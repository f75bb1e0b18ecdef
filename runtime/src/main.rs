//! The `nacre` binary: an OCI container runtime whose containers each run in their own
//! microVM, or on the host's kernel.

mod cli;
mod commands;
mod config;
mod error;
mod id;
mod isolation;
mod log;
mod state;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let outcome = log::init(&cli.global)
        .map_err(error::Error::from)
        .and_then(|()| commands::dispatch(cli));
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            log::report(&error);
            ExitCode::from(error.exit_status())
        }
    }
}
