//! The container's cgroup on the host: the sandbox process is in it, with its VM.

use std::fs;

use nacre_tests::vm::{self, Role};
use nacre_tests::{Bundle, Case, leftovers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

nacre_tests::tests![
    the_vm_is_in_a_cgroup_of_the_containers_id,
    the_vm_is_in_the_cgroup_that_is_asked_for,
    delete_removes_the_cgroup_of_a_vm_that_has_ended,
    delete_removes_what_a_killed_vm_leaves,
    run_replaces_what_a_killed_vm_leaves,
    a_cgroup_in_use_is_refused,
    no_cgroup_is_needed_where_none_is_mounted,
    the_vm_has_limits_on_the_host,
    a_container_without_limits_has_a_vm_with_them,
    want_of_memory_shows_in_the_cgroup,
];

pub(super) const MIB: u64 = 1 << 20;

fn waiting(case: &Case) -> Bundle {
    case.busybox().shell("echo ready; exec sleep 1000")
}

/// Returns a path for `linux.cgroupsPath`, two levels of which don't exist yet.
fn path(case: &Case) -> String {
    format!("/{0}/{0}.sub/vm", case.id())
}

/// Fails unless the processes are those of a VM, each with all of its threads in the cgroup whose
/// path ends like this, in every hierarchy.
#[track_caller]
fn are_in(case: &Case, processes: &[Pid], end: &str) {
    // These include the stand-in of the container and the file server.
    let expected = if case.is_emulated() { 5 } else { 4 };
    assert_eq!(processes.len(), expected, "{processes:?}");
    for pid in processes {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            // A thread may end while it is inspected.
            let file = thread.unwrap().path().join("cgroup");
            let cgroups = fs::read_to_string(file).unwrap_or_default();
            for line in cgroups.lines() {
                assert!(line.ends_with(end), "{pid}: {line}");
            }
        }
    }
}

/// Returns the processes of this test that make up a VM.
fn of_vm(case: &Case) -> Vec<Pid> {
    let all = vm::processes(case.id()).into_iter();
    let inside = all.filter(|(_, role)| *role != Role::Outside);
    inside.map(|(pid, _)| pid).collect()
}

/// Returns the processes of this test but that one.
fn others(case: &Case, but: Option<Pid>) -> Vec<Pid> {
    let all = leftovers::processes(case.id());
    let pids = all.into_iter().map(|(pid, _)| pid);
    pids.filter(|pid| Some(*pid) != but).collect()
}

#[track_caller]
fn none_is_left(case: &Case) {
    let none: [std::path::PathBuf; 0] = [];
    assert_eq!(leftovers::cgroups_named(case.id()), none);
}

fn ends_in_cgroup(case: &Case, bundle: &Bundle, end: &str) {
    let mut running = case.start(bundle);
    running.wait_for_line("ready");
    are_in(case, &of_vm(case), end);
    let own = fs::read_to_string(format!("/proc/{}/cgroup", running.pid())).unwrap();
    assert!(!own.contains(case.id()), "nacre run itself: {own}");
    running.signal(Signal::SIGKILL);
    running.finish();
    // The sandbox process ends by itself then.
    case.wait_for("end", || others(case, None).is_empty());
    none_is_left(case);
}

fn the_vm_is_in_a_cgroup_of_the_containers_id(case: &Case) {
    ends_in_cgroup(case, &waiting(case), &format!("/{}", case.id()));
    case.run(&case.busybox().args(["true"])).ok();
    none_is_left(case);
}

fn the_vm_is_in_the_cgroup_that_is_asked_for(case: &Case) {
    let bundle = waiting(case).set("/linux/cgroupsPath", path(case));
    ends_in_cgroup(case, &bundle, &format!(":{}", path(case)));
}

fn delete_removes_the_cgroup_of_a_vm_that_has_ended(case: &Case) {
    let workload = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let pid = case.detach(&case.busybox().shell(workload));
    case.wait_for_output("ready");
    are_in(case, &of_vm(case), &format!("/{}", case.id()));
    kill(pid, Signal::SIGTERM).unwrap();
    case.wait_for_status("stopped");
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    none_is_left(case);
}

fn delete_removes_what_a_killed_vm_leaves(case: &Case) {
    let bundle = waiting(case).set("/linux/cgroupsPath", path(case));
    for arguments in [&["delete"][..], &["delete", "--force"]] {
        let pid = case.detach(&bundle);
        kill(pid, Signal::SIGKILL).unwrap();
        case.wait_for("end", || others(case, None).is_empty());
        assert_ne!(leftovers::cgroups_named(case.id()).len(), 0);
        let arguments = [arguments, &[case.id()]].concat();
        assert_eq!(case.command(&arguments).ok(), "");
        none_is_left(case);
    }
    // The container runs until then.
    case.detach(&bundle);
    case.remove_container();
    none_is_left(case);
}

fn run_replaces_what_a_killed_vm_leaves(case: &Case) {
    let mut running = case.start(&waiting(case));
    running.wait_for_line("ready");
    // `nacre run` must not clean up.
    running.signal(Signal::SIGSTOP);
    for pid in others(case, Some(running.pid())) {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    running.signal(Signal::SIGKILL);
    running.finish();
    assert_ne!(leftovers::cgroups_named(case.id()).len(), 0);
    case.run(&case.busybox().args(["true"])).ok();
    none_is_left(case);
}

fn a_cgroup_in_use_is_refused(case: &Case) {
    let bundle = waiting(case).set("/linux/cgroupsPath", path(case));
    case.detach(&bundle);
    let mut command = case.nacre();
    command
        .args(["run", "--bundle"])
        .arg(bundle.write())
        .arg(format!("{}-2", case.id()));
    let message = case.spawn(command).finish().refused(1);
    assert!(message.contains("in use"), "{message}");
    assert_eq!(case.status(), "running");
    case.remove_container();
}

fn no_cgroup_is_needed_where_none_is_mounted(case: &Case) {
    let run = |bundle: &Bundle| {
        let nacre = case.nacre();
        let mut command = case.mark(std::process::Command::new("unshare"));
        command
            .args(["--mount", "--propagation", "private", "sh", "-ec"])
            .args(["umount --recursive /sys/fs/cgroup; exec \"$@\"", "sh"])
            .arg(nacre.get_program())
            .args(nacre.get_args())
            .args(["run", "--bundle"])
            .arg(bundle.write())
            .arg(case.id());
        case.spawn(command).finish()
    };
    let bundle = case.busybox().args(["echo", "there"]);
    assert_eq!(run(&bundle).ok(), "there\n");
    let bundle = bundle.set("/linux/cgroupsPath", path(case));
    let message = run(&bundle).refused(1);
    assert!(message.contains("no cgroup file system"), "{message}");
}

/// Returns a limit's value on the host, by its name in version 2 or in version 1.
pub(super) fn limit(case: &Case, v2: &str, v1: &str) -> String {
    let directories = leftovers::cgroups_named(case.id());
    let files = directories.iter().flat_map(|d| [d.join(v2), d.join(v1)]);
    let text = files
        .into_iter()
        .find_map(|file| fs::read_to_string(file).ok());
    text.unwrap_or_else(|| panic!("no {v2} in {directories:?}"))
        .trim()
        .to_owned()
}

fn memory_limit(case: &Case) -> u64 {
    limit(case, "memory.max", "memory.limit_in_bytes")
        .parse()
        .unwrap()
}

fn the_vm_has_limits_on_the_host(case: &Case) {
    let bundle = waiting(case)
        .set("/linux/resources/memory", json!({ "limit": 128 * MIB }))
        .set("/linux/resources/pids", json!({ "limit": 10 }))
        .set(
            "/linux/resources/cpu",
            json!({ "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0", "shares": 300 }),
        );
    case.detach(&bundle);
    case.wait_for_output("ready");
    // The guest has 56 MiB for itself on top of the container's memory; the VM gets half of the
    // guest's memory for what the guest knows of files, and a fixed amount.
    let memory = memory_limit(case);
    assert!(
        (184 * MIB + 92 * MIB..184 * MIB + 92 * MIB + 300 * MIB).contains(&memory),
        "{memory}"
    );
    assert_eq!(limit(case, "pids.max", "pids.max"), "256");
    assert_eq!(limit(case, "cpuset.cpus", "cpuset.cpus"), "0");
    let quota = limit(case, "cpu.max", "cpu.cfs_quota_us");
    assert_eq!(quota.split(' ').next(), Some("50000"));
    let weight = limit(case, "cpu.weight", "cpu.shares");
    assert!(["12", "39", "300"].contains(&&*weight), "{weight}");
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    // The limits that held the workload back don't delay the end of its VM.
    let quota = limit(case, "cpu.max", "cpu.cfs_quota_us");
    assert!(quota.starts_with("max") || quota == "-1", "{quota}");
    let full = limit(case, "cpu.weight", "cpu.shares");
    let number = |weight: &str| weight.parse::<u64>().unwrap();
    assert!(number(&full) > 2 * number(&weight), "{full}");
    case.remove_container();
}

fn a_container_without_limits_has_a_vm_with_them(case: &Case) {
    case.detach(&waiting(case));
    case.wait_for_output("ready");
    let memory = memory_limit(case);
    // `vm.memory` defaults to 256 MiB.
    assert!(
        (384 * MIB..384 * MIB + 300 * MIB).contains(&memory),
        "{memory}"
    );
    let quota = limit(case, "cpu.max", "cpu.cfs_quota_us");
    assert!(quota.starts_with("max") || quota == "-1", "{quota}");
    case.remove_container();
}

/// Returns how many processes of the cgroup the host has killed for want of memory, as engines look
/// it up.
fn oom_kills(case: &Case) -> u64 {
    let files = ["memory.events", "memory.oom_control"];
    let directories = leftovers::cgroups_named(case.id());
    let mut files = directories
        .iter()
        .flat_map(|directory| files.map(|file| directory.join(file)));
    let text = files.find_map(|file| fs::read_to_string(file).ok());
    let text = text.unwrap_or_else(|| panic!("no events in {directories:?}"));
    let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
    line.unwrap().parse().unwrap()
}

fn want_of_memory_shows_in_the_cgroup(case: &Case) {
    let takes = "dd if=/dev/zero of=/dev/null bs=300M count=1; echo $?; exit 7";
    let blamed = "its memory limit killed";
    for (limit, says, not) in [
        (64 * MIB, blamed, "its VM's memory ran out"),
        (0, "its VM's memory ran out", blamed),
    ] {
        let bundle = case
            .busybox()
            .set("/linux/resources/memory", json!({ "limit": limit }))
            .shell(takes);
        case.detach(&bundle);
        case.wait_for_status("stopped");
        assert!(case.output().ends_with("137\n"), "{}", case.output());
        assert!(oom_kills(case) > 0);
        let log = fs::read_to_string(case.log()).unwrap();
        assert!(log.contains(says) && !log.contains(not), "{log}");
        fs::remove_file(case.log()).unwrap();
        // The state doesn't mention what the runtime did.
        let state = case.inspect();
        assert!(state["failure"].is_null(), "{state}");
        case.command(&["delete", case.id()]).ok();
    }
}
