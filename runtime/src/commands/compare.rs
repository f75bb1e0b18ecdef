//! `nacre compare`: runs a workload in both modes, and shows what differs.

use std::{ffi::OsString, fs, path::Path};

use crate::{
    binary,
    cli::{Compare, Global},
    compare::{self, Comparison},
    probe::Probe,
};

use super::{
    error::Error,
    output::{print, print_json},
};

pub(super) fn compare(global: &Global, arguments: &Compare) -> Result<u8, Error> {
    let comparison = Comparison {
        bundle: arguments.bundle.clone(),
        arguments: arguments.arguments.clone(),
        runs: arguments.runs,
        timeout: arguments.timeout.0,
        program: binary::path().ok_or(Error::NoProgram)?.to_owned(),
        flags: flags(global),
    };
    // SAFETY: this process has made no thread.
    let compared = unsafe { compare::compare(&comparison) }?;
    if let Some(path) = &arguments.html {
        write(path, &compared.page)?;
    }
    match &arguments.json {
        Some(path) if path == Path::new("-") => {
            print_json(&compared.document)?;
            return Ok(0);
        }
        Some(path) => write(path, &format!("{:#}\n", compared.document))?,
        None => {}
    }
    print(&compared.text)?;
    Ok(0)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::Write {
        path: path.into(),
        source,
    })
}

/// Runs in a container, in the workload's place.
pub(super) fn probe() -> Result<u8, Error> {
    // SAFETY: this process has made no thread, and does nothing after this but print.
    let probe = unsafe { Probe::look() };
    print(&serde_json::json!(probe).to_string())?;
    Ok(0)
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
