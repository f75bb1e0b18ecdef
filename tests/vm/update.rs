//! `nacre update` and `nacre events`: the container's limits in the guest, and its VM's on the
//! host.

use std::fs;

use nacre_tests::Case;
use serde_json::{Value, json};

use super::cgroup::limit;

nacre_tests::tests![
    limits_change_in_the_guest_and_on_the_host,
    what_the_vm_does_not_have_is_refused,
    a_half_that_fails_takes_the_other_back,
    the_vm_is_told_of_apart,
];

const MIB: u64 = 1 << 20;

/// Starts a container that, at each USR1, prints a file of its cgroup, whose name is in a file of
/// its root.
fn telling(case: &Case) {
    let bundle = case
        .busybox()
        .set("/linux/resources/memory", json!({ "limit": 64 * MIB }))
        .set(
            "/linux/resources/cpu",
            json!({ "quota": 50_000, "period": 100_000 }),
        )
        .shell(
            "trap 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; echo told' USR1
             echo ready; while :; do sleep 0.05; done",
        );
    case.detach(&bundle);
    case.wait_for_output("ready");
}

/// Returns what the container prints.
#[track_caller]
fn told(case: &Case) -> String {
    let before = case.output().len();
    case.command(&["kill", case.id(), "USR1"]).ok();
    case.wait_for("what is told", || {
        case.output()[before..].contains("told\n")
    });
    case.output()[before..].to_owned()
}

fn quota_on_the_host(case: &Case) -> String {
    let quota = limit(case, "cpu.max", "cpu.cfs_quota_us");
    quota.split(' ').next().unwrap().to_owned()
}

fn limits_change_in_the_guest_and_on_the_host(case: &Case) {
    telling(case);
    let memory = limit(case, "memory.max", "memory.limit_in_bytes");
    let flags = [
        "update",
        "--memory=48M",
        "--cpu-quota=30000",
        "--cpu-period=100000",
        "--cpuset-cpus=0",
        case.id(),
    ];
    assert_eq!(case.command(&flags).ok(), "");
    assert_eq!(told(case), format!("{}\n30000 100000\ntold\n", 48 * MIB));
    assert_eq!(quota_on_the_host(case), "30000");
    assert_eq!(limit(case, "cpuset.cpus", "cpuset.cpus"), "0");
    // The VM keeps its memory.
    assert_eq!(limit(case, "memory.max", "memory.limit_in_bytes"), memory);
    // Without a limit of its own the container may use what the VM has.
    assert_eq!(
        case.command(&["update", "--memory=-1", "--cpu-quota=-1", case.id()])
            .ok(),
        ""
    );
    assert_eq!(told(case), "max\nmax 100000\ntold\n");
    let quota = quota_on_the_host(case);
    assert!(quota == "max" || quota == "-1", "{quota}");
    case.remove_container();
}

fn what_the_vm_does_not_have_is_refused(case: &Case) {
    telling(case);
    let refused = |flags: &[&str]| {
        let words = [&["update"], flags, &[case.id()]].concat();
        case.command(&words).refused(1)
    };
    let message = refused(&["--memory=1G"]);
    assert!(
        message.contains("linux.resources.memory.limit: 1024 MiB is more than the VM's"),
        "{message}"
    );
    let message = refused(&["--cpu-quota=200000", "--cpu-period=100000"]);
    assert!(
        message.contains("it takes 2 CPUs, and the VM has 1"),
        "{message}"
    );
    assert_eq!(told(case), format!("{}\n50000 100000\ntold\n", 64 * MIB));
    assert_eq!(quota_on_the_host(case), "50000");
    case.remove_container();
}

/// The guest has no separate limit on socket buffers.
fn a_half_that_fails_takes_the_other_back(case: &Case) {
    telling(case);
    let path = case.directory().join("resources.json");
    let resources = json!({ "cpu": { "quota": 30_000 }, "memory": { "kernelTCP": 4096 } });
    fs::write(&path, resources.to_string()).unwrap();
    let message = case
        .command(&["update", "--resources", path.to_str().unwrap(), case.id()])
        .refused(1);
    assert!(message.contains("memory.kernelTCP"), "{message}");
    assert_eq!(quota_on_the_host(case), "50000");
    assert_eq!(told(case), format!("{}\n50000 100000\ntold\n", 64 * MIB));
    case.remove_container();
}

fn the_vm_is_told_of_apart(case: &Case) {
    telling(case);
    let output = case.command(&["events", "--stats", case.id()]).ok();
    let stats: Value = serde_json::from_str(&output).unwrap();
    let number = |pointer: &str| {
        let number = stats.pointer(pointer).and_then(Value::as_u64);
        number.unwrap_or_else(|| panic!("no number {pointer} in {stats:#}"))
    };
    assert_eq!(number("/data/memory/usage/limit"), 64 * MIB);
    let limit = limit(case, "memory.max", "memory.limit_in_bytes");
    assert_eq!(
        number("/data/sandbox/memory/usage/limit").to_string(),
        limit
    );
    // The guest's kernel alone uses more than that.
    let of_vm = number("/data/sandbox/memory/usage/usage");
    assert!(of_vm > 12 * MIB, "{stats:#}");
    assert!(number("/data/memory/usage/usage") < of_vm, "{stats:#}");
    assert_eq!(number("/data/sandbox/pids/limit"), 256);
    case.remove_container();
}
