//! `nacre compare` and `nacre boot`: run a workload, and show what it costs, or how it starts.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    binary,
    cli::{Boot, Compare, Global, Workload},
    compare::{self, Comparison, Subject},
    probe::Probe,
};

use super::{
    containers::isolation,
    error::Error,
    output::{print, print_json},
};

pub(super) fn compare(global: &Global, arguments: &Compare) -> Result<u8, Error> {
    let comparison = Comparison {
        subject: subject(global, &arguments.workload)?,
        runs: arguments.runs,
    };
    check([&arguments.html, &arguments.json])?;
    // SAFETY: this process has made no thread.
    let compared = unsafe { compare::compare(&comparison) }?;
    let json = arguments.json.as_deref();
    show(json, &compared.document, &compared.text)?;
    if let Some(path) = &arguments.html {
        write(path, &compared.page)?;
    }
    Ok(0)
}

/// `nacre boot`.
pub(super) fn boot(global: &Global, arguments: &Boot) -> Result<u8, Error> {
    let boot = compare::Boot {
        subject: subject(global, &arguments.workload)?,
        isolation: isolation(global)?,
    };
    check([&arguments.trace, &arguments.json])?;
    // SAFETY: this process has made no thread.
    let watched = unsafe { compare::boot(&boot) }?;
    show(arguments.json.as_deref(), &watched.document, &watched.text)?;
    if let Some(path) = &arguments.trace {
        write(path, &watched.trace.to_string())?;
    }
    Ok(0)
}

/// Prints the text, and writes JSON where it is wanted, or prints it instead.
fn show(json: Option<&Path>, document: &serde_json::Value, text: &str) -> Result<(), Error> {
    match json {
        Some(path) if path == Path::new("-") => print_json(document),
        Some(path) => {
            print(text)?;
            write(path, &format!("{document:#}\n"))
        }
        None => print(text),
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::Write {
        path: path.into(),
        source,
    })
}

/// Makes the files before anything is run: what can't be written is said at once.
fn check<const N: usize>(paths: [&Option<PathBuf>; N]) -> Result<(), Error> {
    let paths = paths.into_iter().flatten();
    for path in paths.filter(|path| *path != Path::new("-")) {
        write(path, "")?;
    }
    Ok(())
}

/// Runs in a container, in the workload's place.
pub(super) fn probe() -> Result<u8, Error> {
    // SAFETY: this process has made no thread, and does nothing after this but print.
    let probe = unsafe { Probe::look() };
    print(&serde_json::json!(probe).to_string())?;
    Ok(0)
}

/// Returns what the command line wants to be run.
fn subject(global: &Global, workload: &Workload) -> Result<Subject, Error> {
    Ok(Subject {
        bundle: workload.bundle.clone(),
        arguments: workload.arguments.clone(),
        timeout: workload.timeout.0,
        program: binary::path().ok_or(Error::NoProgram)?.to_owned(),
        flags: flags(global),
    })
}

/// Returns the global flags that matter to the containers, whose state is kept elsewhere.
fn flags(global: &Global) -> Vec<OsString> {
    let mut flags = Vec::new();
    if let Some(config) = &global.config {
        flags.extend(["--config".into(), config.into()]);
    }
    if let Some(hypervisor) = global.hypervisor {
        flags.extend(["--hypervisor".into(), hypervisor.name().into()]);
    }
    if global.systemd_cgroup {
        flags.push("--systemd-cgroup".into());
    }
    flags
}
