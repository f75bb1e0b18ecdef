//! The `nacre` binary: an OCI container runtime whose containers each run in their own
//! microVM, or on the host's kernel.

mod binary;
mod cli;
mod commands;
mod config;
mod error;
mod id;
mod isolation;
mod log;
mod state;
mod systemd;

use std::{env, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    // SAFETY: this is the only thread.
    unsafe { binary::find() };
    // Parsing the command line is a third of what starting this program takes, and a program
    // that is run anew would do it twice.
    if commands::surely_enter_a_container(env::args_os()) {
        // What fails here does so again where it can be logged.
        let _ = commands::protect();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Of --help and --version too; there is nobody left to tell if that fails.
            let _ = error.print();
            // As runc has it, whose callers may tell 1 from others.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let is_exec = matches!(cli.command, cli::Command::Exec(_));
    let outcome = log::init(&cli.global)
        .map_err(error::Error::from)
        .and_then(|()| commands::dispatch(cli));
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            log::report(&error);
            let status = error.exit_status();
            ExitCode::from(match is_exec {
                true => isolation::exec_failed(status),
                false => status,
            })
        }
    }
}
