//! Parses `process.scheduler`.

use oci_spec::runtime::{LinuxSchedulerFlag, LinuxSchedulerPolicy, Scheduler};

use super::error::ConfigError;

use LinuxSchedulerPolicy::*;

/// The kernel's range of nice values.
const NICE: std::ops::RangeInclusive<i32> = -20..=19;

/// The kernel's range of real-time priorities.
const PRIORITY: std::ops::RangeInclusive<i32> = 1..=99;

/// As in `linux/sched/types.h`, up to the fields of Linux 5.3.
#[repr(C)]
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util_min: u32,
    util_max: u32,
}

/// Parses it: checks which attributes go with which policy, and their ranges.
pub(crate) fn parse(scheduler: &Scheduler) -> Result<SchedulerAttributes, ConfigError> {
    let invalid = |name: &str, problem: String| {
        Err(ConfigError::invalid(
            format!("process.scheduler.{name}"),
            problem,
        ))
    };
    let policy = *scheduler.policy();
    let number = match policy {
        SchedOther => libc::SCHED_OTHER,
        SchedFifo => libc::SCHED_FIFO,
        SchedRr => libc::SCHED_RR,
        SchedBatch => libc::SCHED_BATCH,
        SchedIdle => libc::SCHED_IDLE,
        SchedDeadline => libc::SCHED_DEADLINE,
        SchedIso => {
            let problem = "Linux has no SCHED_ISO, only a number for it";
            return invalid("policy", problem.to_owned());
        }
    };
    let nice = scheduler.nice().unwrap_or(0);
    if !NICE.contains(&nice) {
        return invalid("nice", format!("{nice} isn't between -20 and 19"));
    }
    if nice != 0 && !matches!(policy, SchedOther | SchedBatch) {
        return invalid("nice", format!("{policy} has no nice values"));
    }
    let priority = scheduler.priority().unwrap_or(0);
    if matches!(policy, SchedFifo | SchedRr) {
        if !PRIORITY.contains(&priority) {
            return invalid("priority", format!("{priority} isn't between 1 and 99"));
        }
    } else if priority != 0 {
        return invalid("priority", format!("{policy} has no priorities"));
    }
    let times = [
        ("runtime", *scheduler.runtime()),
        ("deadline", *scheduler.deadline()),
        ("period", *scheduler.period()),
    ];
    if policy != SchedDeadline
        && let Some((name, _)) = times.iter().find(|(_, time)| time.is_some_and(|t| t != 0))
    {
        return invalid(name, "only SCHED_DEADLINE has it".to_owned());
    }
    let [runtime, deadline, period] = times.map(|(_, time)| time.unwrap_or(0));
    Ok(SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy: number as u32,
        flags: scheduler
            .flags()
            .iter()
            .flatten()
            .fold(0, |flags, flag| flags | bit(*flag)),
        nice,
        // It isn't negative, as was checked.
        priority: priority.unsigned_abs(),
        runtime,
        deadline,
        period,
        ..SchedulerAttributes::default()
    })
}

/// As in `linux/sched.h`.
fn bit(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attributes_are_the_kernels() {
        let scheduler = serde_json::from_value(json!({
            "policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RECLAIM", "SCHED_RESET_ON_FORK"],
            "runtime": 1, "deadline": 2, "period": 3,
        }));
        let expected = SchedulerAttributes {
            size: 56,
            policy: 6,
            flags: 3,
            runtime: 1,
            deadline: 2,
            period: 3,
            ..Default::default()
        };
        assert_eq!(parse(&scheduler.unwrap()).unwrap(), expected);
    }

    #[test]
    fn what_does_not_go_with_the_policy_is_refused_by_name() {
        for (json, error) in [
            (json!({"policy": "SCHED_OTHER", "nice": 19}), None),
            (json!({"policy": "SCHED_BATCH", "nice": -20}), None),
            (
                json!({"policy": "SCHED_IDLE", "priority": 0, "runtime": 0}),
                None,
            ),
            (json!({"policy": "SCHED_RR", "priority": 99}), None),
            (
                json!({"policy": "SCHED_ISO"}),
                Some("policy: Linux has no SCHED_ISO, only a number for it"),
            ),
            (
                json!({"policy": "SCHED_OTHER", "nice": 20}),
                Some("nice: 20 isn't between -20 and 19"),
            ),
            (
                json!({"policy": "SCHED_FIFO", "nice": 1, "priority": 1}),
                Some("nice: SCHED_FIFO has no nice values"),
            ),
            (
                json!({"policy": "SCHED_FIFO"}),
                Some("priority: 0 isn't between 1 and 99"),
            ),
            (
                json!({"policy": "SCHED_RR", "priority": -1}),
                Some("priority: -1 isn't between 1 and 99"),
            ),
            (
                json!({"policy": "SCHED_OTHER", "priority": 1}),
                Some("priority: SCHED_OTHER has no priorities"),
            ),
            (
                json!({"policy": "SCHED_OTHER", "period": 1}),
                Some("period: only SCHED_DEADLINE has it"),
            ),
        ] {
            let scheduler = serde_json::from_value(json.clone()).unwrap();
            let found = parse(&scheduler).map_err(|e| e.to_string());
            let expected = error.map(|error| format!("process.scheduler.{error}"));
            assert_eq!(found.err(), expected, "{json}");
        }
    }
}
