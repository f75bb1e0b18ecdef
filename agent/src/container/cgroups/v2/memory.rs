//! The memory controller: `linux.resources.memory`.

use oci_spec::runtime::LinuxMemory;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::{IfMissing, Setting};

/// Limits in bytes; -1 means none, 0 means not given.
pub(in crate::container::cgroups) fn settings(
    memory: &LinuxMemory,
) -> Result<Vec<Setting>, CgroupError> {
    // `memory.kernel` is left out, with a warning, as with version 1.
    for (given, field, reason) in [
        (
            memory.kernel_tcp().is_some_and(|limit| limit > 0),
            "memory.kernelTCP",
            "cgroup v2 counts socket buffers with the rest",
        ),
        (
            memory.swappiness().is_some(),
            "memory.swappiness",
            "cgroup v2 has no swappiness of a cgroup",
        ),
        (
            memory.disable_oom_killer() == Some(true),
            "memory.disableOOMKiller",
            "cgroup v2 always kills what passes its limit",
        ),
        (
            memory.use_hierarchy() == Some(false),
            "memory.useHierarchy",
            "cgroup v2 is always hierarchical",
        ),
    ] {
        if given {
            return Err(CgroupError::unsupported(field, reason));
        }
    }

    let limit = bytes("memory.limit", memory.limit())?;
    let reservation = bytes("memory.reservation", memory.reservation())?;
    let swap = bytes("memory.swap", memory.swap())?;
    let mut settings = Vec::new();
    if let Some(reservation) = reservation {
        settings.push(Setting::new(
            "memory.reservation",
            "memory.low",
            reservation,
        ));
    }
    if let Some(limit) = limit {
        settings.push(Setting::new("memory.limit", "memory.max", limit));
    }
    if let Some(swap) = swap_alone(limit, swap)? {
        let if_missing = match swap {
            Limit::None => IfMissing::Skip,
            Limit::Bytes(_) => IfMissing::SkipWithoutSwap,
        };
        settings.push(Setting::new("memory.swap", "memory.swap.max", swap).if_missing(if_missing));
    }
    Ok(settings)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    None,
    Bytes(u64),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::None => f.write_str("max"),
            Limit::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

fn bytes(field: &str, value: Option<i64>) -> Result<Option<Limit>, CgroupError> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Limit::None)),
        Some(value) => u64::try_from(value)
            .map(|bytes| Some(Limit::Bytes(bytes)))
            .map_err(|_| CgroupError::invalid(field, value, "a number of bytes, or -1")),
    }
}

/// Returns v2's limit, which is on swap alone; the spec's is on memory and swap together.
fn swap_alone(limit: Option<Limit>, swap: Option<Limit>) -> Result<Option<Limit>, CgroupError> {
    match (limit, swap) {
        // As on v1: without a limit on memory there is none on memory and swap.
        (Some(Limit::None), None) => Ok(Some(Limit::None)),
        (_, None | Some(Limit::None)) | (Some(Limit::None), _) => Ok(swap),
        (None, Some(swap)) => Err(CgroupError::invalid(
            "memory.swap",
            swap,
            "possible without memory.limit, which it includes",
        )),
        (Some(Limit::Bytes(limit)), Some(Limit::Bytes(both))) => both
            .checked_sub(limit)
            .map(|swap| Some(Limit::Bytes(swap)))
            .ok_or_else(|| {
                CgroupError::invalid(
                    "memory.swap",
                    both,
                    "at least memory.limit, which it includes",
                )
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::setting::testing::{expect_each, written};

    fn memory(json: &str) -> Result<Vec<(String, String)>, String> {
        written(json, settings)
    }

    #[test]
    fn limits_become_those_of_v2() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("{}", &[]),
            (r#"{"limit": 0, "swap": 0, "kernel": 4096}"#, &[]),
            (r#"{"limit": 1048576}"#, &[("memory.max", "1048576")]),
            (
                r#"{"limit": -1}"#,
                &[("memory.max", "max"), ("memory.swap.max", "max")],
            ),
            (r#"{"reservation": 4096}"#, &[("memory.low", "4096")]),
            (
                r#"{"limit": 1000, "swap": 3000}"#,
                &[("memory.max", "1000"), ("memory.swap.max", "2000")],
            ),
            (
                r#"{"limit": 1000, "swap": 1000}"#,
                &[("memory.max", "1000"), ("memory.swap.max", "0")],
            ),
            (
                r#"{"limit": 1000, "swap": -1}"#,
                &[("memory.max", "1000"), ("memory.swap.max", "max")],
            ),
            (
                r#"{"limit": -1, "swap": 3000}"#,
                &[("memory.max", "max"), ("memory.swap.max", "3000")],
            ),
            (
                r#"{"disableOOMKiller": false, "useHierarchy": true, "kernelTCP": -1}"#,
                &[],
            ),
        ];
        expect_each(cases, memory);
    }

    #[test]
    fn what_v2_lacks_is_refused_by_name() {
        for (json, field) in [
            (r#"{"kernelTCP": 4096}"#, "memory.kernelTCP "),
            (r#"{"swappiness": 10}"#, "memory.swappiness "),
            (r#"{"disableOOMKiller": true}"#, "memory.disableOOMKiller "),
            (r#"{"useHierarchy": false}"#, "memory.useHierarchy "),
            (r#"{"limit": -2}"#, "memory.limit: -2 "),
            (r#"{"swap": 4096}"#, "memory.swap: 4096 "),
            (r#"{"limit": 2, "swap": 1}"#, "memory.swap: 1 "),
        ] {
            let error = memory(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
