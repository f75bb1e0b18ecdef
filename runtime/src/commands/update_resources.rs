//! The limits that `nacre update` sets, as the flags or a document describe them.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use crate::{
    cli::Update,
    config::bundle::{BundleError, read_json},
};

/// Stands for standard input.
const STDIN: &str = "-";

/// The longest document that is read from standard input, in bytes.
const MAX_DOCUMENT: u64 = 1 << 20;

/// Why it isn't clear what to change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResourcesError {
    #[error("{0} can't be honoured: Intel RDT isn't supported")]
    IntelRdt(&'static str),
    #[error("--resources")]
    Read(#[from] BundleError),
    #[error("can't read standard input")]
    Stdin(#[source] io::Error),
    #[error("{path}")]
    Document {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the flags make no document with resources")]
    Flags(#[source] serde_json::Error),
}

pub(super) fn resources(arguments: &Update) -> Result<LinuxResources, ResourcesError> {
    let Some(path) = &arguments.resources else {
        return of_flags(arguments);
    };
    let json = if path == Path::new(STDIN) {
        read_stdin().map_err(ResourcesError::Stdin)?
    } else {
        read_json(path)?
    };
    // An object: an array would be accepted as well, as its fields in a certain order.
    serde_json::from_slice::<Map<String, Value>>(&json)
        .and_then(|object| serde_json::from_value(object.into()))
        .map_err(|source| ResourcesError::Document {
            path: path.clone(),
            source,
        })
}

fn read_stdin() -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    io::stdin().take(MAX_DOCUMENT).read_to_end(&mut json)?;
    Ok(json)
}

fn of_flags(arguments: &Update) -> Result<LinuxResources, ResourcesError> {
    for (flag, value) in [
        ("--l3-cache-schema", &arguments.l3_cache_schema),
        ("--mem-bw-schema", &arguments.mem_bw_schema),
    ] {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            return Err(ResourcesError::IntelRdt(flag));
        }
    }
    if arguments.kernel_memory.is_some() || arguments.kernel_memory_tcp.is_some() {
        tracing::warn!("--kernel-memory and --kernel-memory-tcp are without effect");
    }
    let limit = |limit: Option<crate::cli::Limit>| limit.map(|limit| limit.0);
    let document = json!({
        "memory": given(json!({
            "limit": limit(arguments.memory),
            "reservation": limit(arguments.memory_reservation),
            "swap": limit(arguments.memory_swap),
        })),
        "cpu": given(json!({
            "shares": arguments.cpu_share,
            "quota": arguments.cpu_quota,
            "burst": arguments.cpu_burst,
            "period": arguments.cpu_period,
            "realtimeRuntime": arguments.cpu_rt_runtime,
            "realtimePeriod": arguments.cpu_rt_period,
            "idle": arguments.cpu_idle,
            "cpus": arguments.cpuset_cpus,
            "mems": arguments.cpuset_mems,
        })),
        // As in runc, 0 leaves the limit as it is.
        "pids": given(json!({"limit": arguments.pids_limit.filter(|limit| *limit != 0)})),
        "blockIO": given(json!({"weight": arguments.blkio_weight.filter(|weight| *weight != 0)})),
    });
    serde_json::from_value(document).map_err(ResourcesError::Flags)
}

/// Removes what is null from an object; null if nothing else is in it.
fn given(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        if fields.is_empty() {
            return Value::Null;
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(flags: &[&str]) -> Result<LinuxResources, ResourcesError> {
        let line = ["nacre", "update"].iter().chain(flags);
        let Command::Update(update) = Cli::try_parse_from(line).unwrap().command else {
            panic!()
        };
        resources(&update)
    }

    #[test]
    fn every_flag_has_its_field() {
        let resources = parsed(&[
            "--blkio-weight=500",
            "--cpu-period=50000",
            "--cpu-quota",
            "-1",
            "--cpu-burst=100",
            "--cpu-share=512",
            "--cpu-rt-period=1000",
            "--cpu-rt-runtime=100",
            "--cpu-idle=1",
            "--cpuset-cpus=0-1",
            "--cpuset-mems=0",
            "--memory=20M",
            "--memory-reservation=10M",
            "--memory-swap",
            "-1",
            "--pids-limit",
            "-1",
            "id",
        ])
        .unwrap();
        let expected = json!({
            "memory": {"limit": 20 << 20, "reservation": 10 << 20, "swap": -1},
            "cpu": {
                "shares": 512, "quota": -1, "burst": 100, "period": 50000,
                "realtimeRuntime": 100, "realtimePeriod": 1000, "idle": 1,
                "cpus": "0-1", "mems": "0"
            },
            "pids": {"limit": -1},
            "blockIO": {"weight": 500},
        });
        let expected: LinuxResources = serde_json::from_value(expected).unwrap();
        assert_eq!(resources, expected);
    }

    #[test]
    fn what_is_not_given_is_left_alone() {
        for flags in [&["id"][..], &["--kernel-memory=1G", "id"]] {
            assert_eq!(parsed(flags).unwrap(), LinuxResources::default());
        }
        let resources = parsed(&["--memory=1G", "--pids-limit=0", "id"]).unwrap();
        assert!(resources.cpu().is_none() && resources.pids().is_none());
        assert!(resources.block_io().is_none() && resources.devices().is_none());
        assert!(matches!(
            parsed(&["--l3-cache-schema=L3:0=f", "id"]),
            Err(ResourcesError::IntelRdt("--l3-cache-schema"))
        ));
    }

    #[test]
    fn a_document_takes_the_flags_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resources.json");
        std::fs::write(&path, r#"{"pids": {"limit": 7}}"#).unwrap();
        let path = path.to_str().unwrap();
        let resources = parsed(&["-r", path, "--memory=1G", "id"]).unwrap();
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 7);
        assert!(resources.memory().is_none());
        for bad in [r#"{"pids": 7}"#, "[]", "", "7"] {
            std::fs::write(path, bad).unwrap();
            let parsed = parsed(&["-r", path, "id"]);
            assert!(
                matches!(parsed, Err(ResourcesError::Document { .. })),
                "{bad}"
            );
        }
    }
}
