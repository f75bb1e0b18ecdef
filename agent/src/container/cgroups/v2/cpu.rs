//! The CPU controller: `linux.resources.cpu`, except its `cpus` and `mems`.

use oci_spec::runtime::LinuxCpu;

use crate::container::cgroups::CgroupError;
use crate::container::cgroups::setting::Setting;

/// The kernel's period when none is given, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

pub(in crate::container::cgroups) fn settings(cpu: &LinuxCpu) -> Result<Vec<Setting>, CgroupError> {
    for (given, field) in [
        (
            cpu.realtime_runtime().is_some_and(|runtime| runtime != 0),
            "cpu.realtimeRuntime",
        ),
        (
            cpu.realtime_period().is_some_and(|period| period != 0),
            "cpu.realtimePeriod",
        ),
    ] {
        if given {
            let reason = "cgroup v2 doesn't control realtime scheduling";
            return Err(CgroupError::unsupported(field, reason));
        }
    }

    let mut settings = Vec::new();
    let idle = cpu.idle();
    match idle {
        None => {}
        Some(0 | 1) => settings.extend(idle.map(|idle| Setting::new("cpu.idle", "cpu.idle", idle))),
        Some(other) => return Err(CgroupError::invalid("cpu.idle", other, "0 or 1")),
    }
    // An idle cgroup has its own weight, below all others, and the kernel takes no other.
    if let Some(shares) = cpu.shares()
        && shares != 0
        && idle != Some(1)
    {
        settings.push(Setting::new("cpu.shares", "cpu.weight", weight(shares)));
    }
    let quota = cpu.quota().unwrap_or(0);
    let period = cpu.period().unwrap_or(0);
    if quota != 0 || period != 0 {
        let period = if period == 0 { DEFAULT_PERIOD } else { period };
        if !(1_000..=1_000_000).contains(&period) {
            let expected = "between 1000 and 1000000 microseconds";
            return Err(CgroupError::invalid("cpu.period", period, expected));
        }
        let quota = match quota {
            ..=0 => "max".to_owned(),
            1..1_000 => {
                let expected = "at least 1000 microseconds, or -1";
                return Err(CgroupError::invalid("cpu.quota", quota, expected));
            }
            _ => quota.to_string(),
        };
        let field = if cpu.quota().is_some() {
            "cpu.quota"
        } else {
            "cpu.period"
        };
        settings.push(Setting::new(field, "cpu.max", format!("{quota} {period}")));
    }
    // After the quota, which it can't exceed.
    if let Some(burst) = cpu.burst() {
        settings.push(Setting::new("cpu.burst", "cpu.max.burst", burst));
    }
    Ok(settings)
}

/// Converts v1 shares (2 to 262144, 1024 by default) to a v2 weight (1 to 10000, 100 by default).
///
/// Minimum, default and maximum don't lie on a line. As in runc since 1.4, a parabola goes through
/// the three logarithms, so that a default stays a default.
fn weight(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::cgroups::setting::testing::{expect_each, written};

    fn cpu(json: &str) -> Result<Vec<(String, String)>, String> {
        written(json, settings)
    }

    #[test]
    fn shares_and_weights_meet_at_minimum_default_and_maximum() {
        for (shares, expected) in [
            (1, 1),
            (2, 1),
            (1024, 100),
            (262_143, 10_000),
            (262_144, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(weight(shares), expected, "{shares} shares");
        }
        let weights: Vec<u64> = (2..=262_144).map(weight).collect();
        assert!(weights.is_sorted());
    }

    #[test]
    fn limits_become_those_of_v2() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("{}", &[]),
            (
                r#"{"shares": 0, "quota": 0, "period": 0, "realtimeRuntime": 0}"#,
                &[],
            ),
            (r#"{"shares": 1024}"#, &[("cpu.weight", "100")]),
            (r#"{"quota": 50000}"#, &[("cpu.max", "50000 100000")]),
            (r#"{"quota": -1}"#, &[("cpu.max", "max 100000")]),
            (r#"{"period": 20000}"#, &[("cpu.max", "max 20000")]),
            (
                r#"{"quota": 5000, "period": 20000, "burst": 1000}"#,
                &[("cpu.max", "5000 20000"), ("cpu.max.burst", "1000")],
            ),
            (r#"{"idle": 1, "shares": 1024}"#, &[("cpu.idle", "1")]),
            (
                r#"{"idle": 0, "shares": 1024}"#,
                &[("cpu.idle", "0"), ("cpu.weight", "100")],
            ),
        ];
        expect_each(cases, cpu);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_refused_by_name() {
        for (json, field) in [
            (r#"{"realtimeRuntime": 1}"#, "cpu.realtimeRuntime "),
            (r#"{"realtimePeriod": 1}"#, "cpu.realtimePeriod "),
            (r#"{"idle": 2}"#, "cpu.idle: 2 "),
            (r#"{"quota": 999}"#, "cpu.quota: 999 "),
            (r#"{"period": 999}"#, "cpu.period: 999 "),
            (r#"{"period": 1000001}"#, "cpu.period: 1000001 "),
        ] {
            let error = cpu(json).unwrap_err();
            assert!(error.contains(field), "{json}: {error}");
        }
    }
}
