//! Workloads that take everything they can get, without limits of their own: the host gives their
//! VM no more than its size, and the agent still answers.

use std::fs;
use std::time::{Duration, Instant};

use nacre_tests::place::in_testbed;
use nacre_tests::{Bundle, Case, leftovers};
use serde_json::json;

use super::cgroup::{MIB, limit};

nacre_tests::tests![
    memory_forks_and_cpus_stay_within_the_hosts_limits,
    a_guest_of_busy_loops_answers,
    a_guest_with_a_real_time_loop_answers,
];

/// How long all answers may take, on a busy machine that emulates VMs: most of a minute was seen,
/// and once more than that. A guest that doesn't answer never does.
const BOUND: Duration = Duration::from_secs(200);

/// Fails unless the container can be inspected, entered and ended, each in a bounded time.
#[track_caller]
fn answers(case: &Case, can_be_entered: bool) {
    let began = Instant::now();
    let lap = |what: &str| {
        let took = began.elapsed();
        assert!(took < BOUND, "{what} after {took:?}");
    };
    assert_eq!(case.status(), "running");
    let processes = case.command(&["ps", "--format", "json", case.id()]).ok();
    assert!(processes.starts_with('['), "{processes}");
    lap("ps");
    // The process is like the container's, but with the default scheduler.
    let process = json!({
        "args": ["echo", "entered"], "cwd": "/", "user": { "uid": 0, "gid": 0 },
        "env": ["PATH=/bin"],
    });
    let file = case.directory().join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let entered = case.command(&["exec", "--process", file.to_str().unwrap(), case.id()]);
    match entered.status() {
        Some(0) => assert_eq!(entered.ok(), "entered\n"),
        _ if can_be_entered => panic!("{entered:?}"),
        // Its kernel may have no room for a further process, or kill it again.
        Some(137) => assert_eq!(entered.text(), ""),
        _ => entered.refused_somehow(),
    }
    lap("exec");
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    lap("kill");
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
}

/// Returns the CPU time that the VM has used on the host.
fn cpu_time(case: &Case) -> Duration {
    let directories = leftovers::cgroups_named(case.id());
    let read = |file: &str| {
        let read = |d: &std::path::PathBuf| fs::read_to_string(d.join(file)).ok();
        directories.iter().find_map(read)
    };
    if let Some(nanoseconds) = read("cpuacct.usage") {
        return Duration::from_nanos(nanoseconds.trim().parse().unwrap());
    }
    let all = read("cpu.stat").unwrap();
    let usage = all
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    Duration::from_micros(usage.unwrap().parse().unwrap())
}

fn number(case: &Case, v2: &str, v1: &str) -> u64 {
    let text = limit(case, v2, v1);
    text.parse().unwrap_or_else(|e| panic!("{v2} {text}: {e}"))
}

fn memory_forks_and_cpus_stay_within_the_hosts_limits(case: &Case) {
    expect_a_quick_machine(case);
    // The process that is killed for want of memory isn't the container's first one.
    let bundle = case
        .busybox()
        .annotation("dev.nacre.vm.memory", "128M")
        .annotation("dev.nacre.vm.cpus", "2")
        .set("/process/oomScoreAdj", -500)
        .set(
            "/linux/resources/cpu",
            json!({ "quota": 50_000, "period": 100_000 }),
        )
        .shell(
            "give_up() { echo 1000 >/proc/self/oom_score_adj; exec 2>/dev/null; }
             loop() { while :; do :; done; }
             (give_up; loop) & (give_up; loop) & (give_up; loop) &
             (give_up; while :; do dd if=/dev/zero of=/dev/null bs=500M count=1; done) &
             (give_up; dd if=/dev/zero of=/file bs=1M count=64) &
             (give_up; echo ready; while :; do sleep 1000 & done) &
             wait; sleep 1000",
        );
    case.detach(&bundle);
    case.wait_for_output("ready");
    let (began, before) = (Instant::now(), cpu_time(case));
    case.wait_for("2 s of CPU time", || {
        assert!(number(case, "pids.current", "pids.current") < 256);
        cpu_time(case) - before > Duration::from_secs(2)
    });
    // The limit is half a CPU, handed out every tenth of a second.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(3500), "2 s of CPU in {took:?}");
    // The guest's memory and what the VM itself needs; most of the guest's memory is in use.
    let most = number(case, "memory.max", "memory.limit_in_bytes");
    assert!((192 * MIB..192 * MIB + 300 * MIB).contains(&most), "{most}");
    case.wait_for("100 MiB in use", || {
        number(case, "memory.current", "memory.usage_in_bytes") > 100 * MIB
    });
    let state = case.inspect();
    assert_eq!(state["status"], "running", "{state:#}");
    answers(case, false);
}

/// Makes a guest with one vCPU, which its container has to itself as far as weights go.
fn of_one_vcpu(case: &Case) -> Bundle {
    case.busybox()
        .annotation("dev.nacre.vm.cpus", "1")
        .set("/linux/resources/cpu", json!({ "shares": 262_144 }))
}

/// Ends a test that takes the guest's CPU from the agent, where a machine is emulated that has half a
/// CPU for an emulated KVM.
fn expect_a_quick_machine(case: &Case) {
    if in_testbed() {
        case.ignore("no hypervisor has a part in it, and it is slow here: --test emulated runs it");
    }
}

fn a_guest_of_busy_loops_answers(case: &Case) {
    expect_a_quick_machine(case);
    let bundle = of_one_vcpu(case).shell(
        "i=0; while [ $i -lt 100 ]; do (while :; do :; done) & i=$((i+1)); done; echo ready; wait",
    );
    case.detach(&bundle);
    case.wait_for_output("ready");
    answers(case, true);
}

/// The agent then gets a twentieth of the time.
fn a_guest_with_a_real_time_loop_answers(case: &Case) {
    expect_a_quick_machine(case);
    let bundle = of_one_vcpu(case)
        .set(
            "/process/scheduler",
            json!({ "policy": "SCHED_FIFO", "priority": 99 }),
        )
        .shell("echo ready; while :; do :; done");
    case.detach(&bundle);
    case.wait_for_output("ready");
    answers(case, true);
}
