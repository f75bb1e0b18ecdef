//! An OCI container runtime that runs each container in its own microVM, or on the host's kernel: all
//! of the `nacre` binary, as a library so that its manual can be made from its command line.

mod binary;
mod cli;
mod commands;
mod compare;
mod config;
#[cfg(fuzzing)]
pub mod fuzz;
mod id;
mod isolation;
mod log;
mod probe;
mod state;
mod systemd;
mod text;

use std::{env, process::ExitCode};

use clap::{CommandFactory, Parser};

/// Returns the command line's definition.
pub fn command_line() -> clap::Command {
    cli::Cli::command()
}

/// Does what the command line asks for, and returns the process's exit status.
///
/// # Safety
///
/// This must be all that the process does: there must be no other thread, and nobody may have changed
/// the environment or kept a reference to a variable of it.
pub unsafe fn run() -> ExitCode {
    // SAFETY: the caller's promise.
    unsafe { binary::find() };
    // Parsing the command line takes a third of this program's start-up time, and a program that is
    // run anew would do it twice.
    if commands::surely_enter_a_container(env::args_os()) {
        // What fails here will fail again where it can be logged.
        let _ = commands::protect();
    }
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Also for --help and --version; there is nobody left to tell if that fails.
            let _ = error.print();
            // As in runc, whose callers may distinguish 1 from other statuses.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let is_exec = matches!(cli.command, cli::Command::Exec(_));
    let global = &cli.global;
    let outcome = log::init(global.log.as_deref(), global.log_format, global.debug)
        .map_err(commands::Error::from)
        .and_then(|()| commands::dispatch(cli));
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            log::report(&error);
            let status = error.exit_status();
            ExitCode::from(if is_exec {
                isolation::exec_failed(status)
            } else {
                status
            })
        }
    }
}
