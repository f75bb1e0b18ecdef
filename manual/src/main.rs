//! Writes nacre's man pages and completions into a directory, laid out as `/usr/share` is.
//!
//! A program of its own, so that nothing of it is in the `nacre` binary.

mod completions;
mod markdown;
mod pages;

use std::{env, error::Error, path::Path};

use clap::Command;

/// The other names by which nacre is called, each of which chooses an isolation.
const LINKS: [&str; 2] = ["nacre-vm", "nacre-process"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [directory] = &arguments[..] else {
        return Err("usage: nacre-manual DIRECTORY".into());
    };
    let directory = Path::new(directory);
    let command = command_line();
    pages::write(&command, &date()?, &directory.join("man"))?;
    completions::write(&command, directory)?;
    Ok(())
}

/// Returns nacre's command line as root has it, whoever runs this.
fn command_line() -> Command {
    nacre::command_line()
        .mut_arg("root", |root| root.default_value("/run/nacre"))
        .disable_help_subcommand(true)
}

/// Returns the pages' date as seconds since 1970 from `SOURCE_DATE_EPOCH`, so that the same source
/// gives the same pages; 0 without it.
///
/// Source: <https://reproducible-builds.org/specs/source-date-epoch/>
fn date() -> Result<pages::Date, Box<dyn Error>> {
    let seconds = match env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds
            .parse()
            .map_err(|e| format!("SOURCE_DATE_EPOCH={seconds}: {e}"))?,
        Err(_) => 0,
    };
    Ok(pages::Date::from_seconds(seconds))
}
