//! The CPU controller: `linux.resources.cpu`, except its `cpus` and `mems`
//! ([kernel document](https://docs.kernel.org/scheduler/sched-bwc.html)).

use oci_spec::runtime::LinuxCpu;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::Setting;

pub(in crate::container::cgroups) fn settings(cpu: &LinuxCpu) -> Result<Vec<Setting>, CgroupError> {
    let mut settings = Vec::new();
    let mut set = |field: &str, file: &str, value: String| {
        settings.push(Setting::new(field, file, value));
    };
    let idle = cpu.idle();
    match idle {
        None => {}
        Some(idle @ (0 | 1)) => set("cpu.idle", "cpu.idle", idle.to_string()),
        Some(other) => return Err(CgroupError::invalid("cpu.idle", other, "0 or 1")),
    }
    match cpu.shares() {
        None | Some(0) => {}
        // An idle cgroup has its own share, below all others, and the kernel takes no other.
        Some(_) if idle == Some(1) => {}
        // The kernel takes any number, and uses the nearest that it supports.
        Some(shares @ 2..=262_144) => set("cpu.shares", "cpu.shares", shares.to_string()),
        Some(other) => {
            let expected = "between 2 and 262144";
            return Err(CgroupError::invalid("cpu.shares", other, expected));
        }
    }
    let unsigned = |value: Option<u64>| value.filter(|v| *v != 0).map(|v| v.to_string());
    let signed = |value: Option<i64>| value.filter(|v| *v != 0).map(|v| v.to_string());
    for (field, file, value) in [
        // The period first: the quota must not exceed the parent's share of it.
        ("cpu.period", "cpu.cfs_period_us", unsigned(cpu.period())),
        ("cpu.quota", "cpu.cfs_quota_us", signed(cpu.quota())),
        (
            "cpu.burst",
            "cpu.cfs_burst_us",
            cpu.burst().map(|burst| burst.to_string()),
        ),
        (
            "cpu.realtimePeriod",
            "cpu.rt_period_us",
            unsigned(cpu.realtime_period()),
        ),
        (
            "cpu.realtimeRuntime",
            "cpu.rt_runtime_us",
            signed(cpu.realtime_runtime()),
        ),
    ] {
        if let Some(value) = value {
            set(field, file, value);
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::setting::testing::{expect_each, written};

    fn cpu(json: &str) -> Result<Vec<(String, String)>, String> {
        written(json, settings)
    }

    #[test]
    fn each_limit_has_its_file() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("{}", &[]),
            (
                r#"{"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0}"#,
                &[],
            ),
            (
                r#"{"shares": 512, "quota": 5000, "period": 20000, "burst": 1000}"#,
                &[
                    ("cpu.shares", "512"),
                    ("cpu.cfs_period_us", "20000"),
                    ("cpu.cfs_quota_us", "5000"),
                    ("cpu.cfs_burst_us", "1000"),
                ],
            ),
            (r#"{"quota": -1}"#, &[("cpu.cfs_quota_us", "-1")]),
            (
                r#"{"realtimePeriod": 1000000, "realtimeRuntime": 950000}"#,
                &[
                    ("cpu.rt_period_us", "1000000"),
                    ("cpu.rt_runtime_us", "950000"),
                ],
            ),
            (r#"{"idle": 1, "shares": 1024}"#, &[("cpu.idle", "1")]),
        ];
        expect_each(cases, cpu);
    }

    #[test]
    fn what_the_kernel_would_change_is_refused_by_name() {
        for (json, field) in [
            (r#"{"shares": 1}"#, "cpu.shares: 1 "),
            (r#"{"shares": 262145}"#, "cpu.shares: 262145 "),
            (r#"{"idle": 2}"#, "cpu.idle: 2 "),
        ] {
            let error = cpu(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
