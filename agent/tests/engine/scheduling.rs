//! When and where the workload runs, and on which memory: `process.scheduler`,
//! `process.ioPriority`, `process.execCPUAffinity`, `linux.memoryPolicy`.

use std::fs;

use nacre_agent::container::{ExecError, ExecOptions, describe};
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio};
use crate::exec;

tests![
    the_scheduler_is_set,
    scheduling_flags_are_set,
    a_policy_that_the_kernel_refuses_is_named,
    the_io_priority_is_set,
    the_affinity_is_for_later_processes,
    a_cpu_that_is_not_there_is_told_of,
    the_memory_policy_is_set_or_refused,
];

/// Returns nice values and scheduling policies from lines of `/proc/PID/stat`.
fn schedule(stat: &str) -> Vec<(i32, i32)> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.rsplit(") ").next().unwrap().split(' ').collect();
        // Fields 19 and 41; the first one here is the third.
        (fields[16].parse().unwrap(), fields[38].parse().unwrap())
    };
    stat.lines().map(of_line).collect()
}

fn the_scheduler_is_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/self/stat");
    let own = schedule(&fs::read_to_string("/proc/self/stat").unwrap())[0];
    for (scheduler, expected) in [
        (Value::Null, own),
        (
            json!({"policy": "SCHED_OTHER", "nice": 7}),
            (7, libc::SCHED_OTHER),
        ),
        (
            json!({"policy": "SCHED_BATCH", "nice": -3}),
            (-3, libc::SCHED_BATCH),
        ),
        // The kernel leaves an idle one's nice value alone.
        (json!({"policy": "SCHED_IDLE"}), (own.0, libc::SCHED_IDLE)),
    ] {
        bundle.config["process"]["scheduler"] = scheduler;
        assert_eq!(schedule(&bundle.output()), [expected]);
    }
    Ok(())
}

fn scheduling_flags_are_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/$$/stat; cat /proc/self/stat; true");
    bundle.config["process"]["scheduler"] = json!({
        "policy": "SCHED_BATCH", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"],
    });
    // The workload's own, and its child's.
    let expected = [(-5, libc::SCHED_BATCH), (0, libc::SCHED_BATCH)];
    assert_eq!(schedule(&bundle.output()), expected);
    Ok(())
}

fn a_policy_that_the_kernel_refuses_is_named() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    bundle.config["process"]["scheduler"] =
        json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 1, "period": 1});
    let (message, _) = bundle.error();
    let words = "can't set process.scheduler to SCHED_DEADLINE: Invalid argument";
    assert!(message.starts_with(words), "{message}");
    Ok(())
}

fn the_io_priority_is_set() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("ionice -p $$");
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    assert_eq!(bundle.output(), "best-effort: prio 6\n");
    Ok(())
}

fn allowed(status: &str) -> &str {
    let mut lines = status.lines();
    let list = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    list.unwrap()
}

fn the_affinity_is_for_later_processes() -> Result<(), Skipped> {
    let own_status = || fs::read_to_string("/proc/self/status").unwrap();
    let own = own_status();
    let first = allowed(&own).split([',', '-']).next().unwrap();
    if allowed(&own) == first {
        return Err(Skipped("this process may run on a single CPU"));
    }
    let mut bundle = Bundle::new("cat /proc/self/status; echo ready; sleep 60");
    bundle.config["process"]["execCPUAffinity"] = json!({"initial": first, "final": first});
    let mut running = bundle.start();
    running.wait_for("ready");
    assert_eq!(allowed(&running.stdout()), allowed(&own));
    for (affinity, expected) in [
        (json!({"final": first}), Some(first)),
        // A cpuset of the container would then decide too.
        (json!({"initial": first}), None),
        (
            json!({"initial": first, "final": allowed(&own)}),
            Some(allowed(&own)),
        ),
        (json!({}), Some(allowed(&own))),
    ] {
        let mut process = bundle.config["process"].clone();
        process["args"] = json!(["cat", "/proc/self/status"]);
        process["execCPUAffinity"] = affinity;
        let outcome = exec::run(&bundle, &mut running, &process);
        assert!(
            expected.is_none_or(|cpus| cpus == allowed(&outcome.stdout)),
            "{outcome:?}"
        );
        assert_eq!(allowed(&own_status()), allowed(&own));
    }
    Ok(())
}

fn a_cpu_that_is_not_there_is_told_of() -> Result<(), Skipped> {
    let bundle = Bundle::new("sleep 60");
    let mut running = bundle.start();
    for name in ["initial", "final"] {
        let mut process = bundle.config["process"].clone();
        process["execCPUAffinity"] = json!({name: "8000"});
        let options = ExecOptions::new(null_stdio());
        let error = exec::start(&bundle, running.container(), &process, options).unwrap_err();
        assert!(!matches!(error, ExecError::TimedOut));
        let words = format!("can't set process.execCPUAffinity.{name}: Invalid argument");
        assert!(describe(&error).starts_with(&words), "{error}");
    }
    Ok(())
}

fn the_memory_policy_is_set_or_refused() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /proc/self/numa_maps");
    bundle.config["linux"]["memoryPolicy"] =
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    if std::path::Path::new("/proc/self/numa_maps").exists() {
        let output = bundle.output();
        assert!(output.contains(" bind=static:0 "), "{output}");
        // These modes take no nodes.
        for (mode, shown) in [
            ("MPOL_DEFAULT", " default "),
            ("MPOL_LOCAL", " local "),
            ("MPOL_PREFERRED", " local "),
        ] {
            bundle.config["linux"]["memoryPolicy"] = json!({"mode": mode});
            let output = bundle.output();
            assert!(output.contains(shown), "{mode}: {output}");
        }
    } else {
        let (message, _) = bundle.error();
        let words = "can't set linux.memoryPolicy: Function not implemented";
        assert!(message.starts_with(words), "{message}");
    }
    Ok(())
}
