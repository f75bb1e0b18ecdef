//! The memory controller: `linux.resources.memory`
//! ([kernel document](https://docs.kernel.org/admin-guide/cgroup-v1/memory.html)).

use oci_spec::runtime::LinuxMemory;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::{IfMissing, Setting};

/// Limits in bytes; -1 means none, 0 means not given.
pub(in crate::container::cgroups) fn settings(
    memory: &LinuxMemory,
) -> Result<Vec<Setting>, CgroupError> {
    if memory.use_hierarchy() == Some(false) {
        let reason = "Linux has only hierarchical accounting, since 5.11";
        return Err(CgroupError::unsupported("memory.useHierarchy", reason));
    }
    let mut settings = Vec::new();
    let limit = bytes("memory.limit", memory.limit())?;
    let mut swap = bytes("memory.swap", memory.swap())?;
    let mut without_swap = IfMissing::SkipWithoutSwap;
    // As with runc: without a limit on memory there is none on memory and swap.
    if limit == Some(-1) && swap.is_none() {
        swap = limit;
    }
    if swap == Some(-1) {
        without_swap = IfMissing::Skip;
    }
    if let (Some(limit @ 0..), Some(swap @ 0..)) = (limit, swap)
        && swap < limit
    {
        let expected = "at least memory.limit, which it includes";
        return Err(CgroupError::invalid("memory.swap", swap, expected));
    }
    for (field, file, value) in [
        ("memory.limit", "memory.limit_in_bytes", limit),
        ("memory.swap", "memory.memsw.limit_in_bytes", swap),
        (
            "memory.reservation",
            "memory.soft_limit_in_bytes",
            bytes("memory.reservation", memory.reservation())?,
        ),
    ] {
        if let Some(value) = value {
            let setting = Setting::new(field, file, value);
            settings.push(match field {
                "memory.swap" => setting.if_missing(without_swap.clone()),
                _ => setting,
            });
        }
    }
    // `memory.kernel` is left out, with a warning: Linux has had no such limit since 5.16.
    let field = "memory.kernelTCP";
    if let Some(value) = bytes(field, memory.kernel_tcp())? {
        let setting = Setting::new(field, "memory.kmem.tcp.limit_in_bytes", value);
        // New kernels take it and do nothing. No limit is the default anyway.
        settings.push(match u64::try_from(value) {
            Ok(value) => setting.read_back(whole_pages(value)),
            Err(_) => setting.if_missing(IfMissing::Skip),
        });
    }
    match memory.swappiness() {
        None => {}
        Some(swappiness @ 0..=100) => settings.push(Setting::new(
            "memory.swappiness",
            "memory.swappiness",
            swappiness,
        )),
        Some(other) => {
            return Err(CgroupError::invalid(
                "memory.swappiness",
                other,
                "between 0 and 100",
            ));
        }
    }
    if memory.disable_oom_killer() == Some(true) {
        let field = "memory.disableOOMKiller";
        settings.push(Setting::new(field, "memory.oom_control", 1));
    }
    Ok(settings)
}

fn bytes(field: &str, value: Option<i64>) -> Result<Option<i64>, CgroupError> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1..) => Ok(value),
        Some(value) => Err(CgroupError::invalid(
            field,
            value,
            "a number of bytes, or -1",
        )),
    }
}

/// Rounds down to whole pages, as the kernel does.
fn whole_pages(bytes: u64) -> u64 {
    // SAFETY: sysconf touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let size = u64::try_from(size).unwrap_or(4096).max(1);
    bytes / size * size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::setting::testing::{expect_each, written};

    fn memory(json: &str) -> Result<Vec<(String, String)>, String> {
        written(json, settings)
    }

    #[test]
    fn each_limit_has_its_file() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("{}", &[]),
            (
                r#"{"limit": 0, "swap": 0, "kernel": 0, "useHierarchy": true,
                    "disableOOMKiller": false}"#,
                &[],
            ),
            (
                r#"{"limit": 4096, "swap": 8192, "reservation": 2048}"#,
                &[
                    ("memory.limit_in_bytes", "4096"),
                    ("memory.memsw.limit_in_bytes", "8192"),
                    ("memory.soft_limit_in_bytes", "2048"),
                ],
            ),
            (
                r#"{"limit": -1}"#,
                &[
                    ("memory.limit_in_bytes", "-1"),
                    ("memory.memsw.limit_in_bytes", "-1"),
                ],
            ),
            (
                r#"{"kernel": 4096, "kernelTCP": -1}"#,
                &[("memory.kmem.tcp.limit_in_bytes", "-1")],
            ),
            (
                r#"{"swappiness": 0, "disableOOMKiller": true}"#,
                &[("memory.swappiness", "0"), ("memory.oom_control", "1")],
            ),
        ];
        expect_each(cases, memory);
    }

    #[test]
    fn a_kernel_limit_is_read_back_in_whole_pages() {
        let read_back = |json: &str| {
            let memory: LinuxMemory = serde_json::from_str(json).unwrap();
            settings(&memory).unwrap()[0].read_back
        };
        assert_eq!(read_back(r#"{"kernelTCP": 1048577}"#), Some(1_048_576));
        assert_eq!(read_back(r#"{"kernelTCP": -1}"#), None);
    }

    #[test]
    fn what_can_t_be_is_refused_by_name() {
        for (json, field) in [
            (r#"{"useHierarchy": false}"#, "memory.useHierarchy "),
            (r#"{"limit": -2}"#, "memory.limit: -2 "),
            (r#"{"limit": 2, "swap": 1}"#, "memory.swap: 1 "),
            (r#"{"swappiness": 101}"#, "memory.swappiness: 101 "),
        ] {
            let error = memory(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
