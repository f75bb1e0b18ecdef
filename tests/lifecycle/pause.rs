//! `nacre pause` and `nacre resume`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nacre_tests::vm::{self, Role};
use nacre_tests::{Case, leftovers};
use nix::sys::signal::{self, Signal};

nacre_tests::tests![
    a_paused_container_stands_still,
    what_cant_be_paused,
    a_paused_container_can_be_killed,
    a_paused_container_can_be_deleted_by_force,
    a_created_container_can_be_paused,
    a_container_frozen_from_outside_is_paused,
    nobody_waits_for_long_for_a_guest_that_stands_still: Vm,
];

/// The longest that engines wait: Podman, for the end of a container that it has killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Returns how long a command may take while a container, which runs yet, stands still: as long as
/// engines wait, and on a busy machine as much longer as a few take that nothing holds up.
fn patience(case: &Case) -> Duration {
    let begun = Instant::now();
    case.command(&["exec", case.id(), "true"]).ok();
    PATIENCE + 4 * begun.elapsed()
}

const COUNTS: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

fn a_paused_container_stands_still(case: &Case) {
    case.detach(&case.busybox().shell(COUNTS));
    case.wait_for_output("3\n");
    for _ in 0..3 {
        assert_eq!(case.command(&["pause", case.id()]).ok(), "");
        assert_eq!(case.status(), "paused");
        let before = case.wait_until_still(|| case.output());
        assert!(case.command(&["list"]).ok().contains("paused"));
        assert_eq!(case.command(&["resume", case.id()]).ok(), "");
        assert_eq!(case.status(), "running");
        case.wait_for("more numbers", || case.output().len() > before.len());
    }
    case.remove_container();
}

fn what_cant_be_paused(case: &Case) {
    case.idle();
    case.command(&["resume", case.id()]).refused(1);
    case.command(&["pause", case.id()]).ok();
    case.command(&["pause", case.id()]).refused(1);
    case.command(&["resume", case.id()]).ok();
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    case.command(&["pause", case.id()]).refused(1);
    case.command(&["resume", case.id()]).refused(1);
    case.remove_container();
}

fn a_paused_container_can_be_killed(case: &Case) {
    case.idle();
    case.command(&["pause", case.id()]).ok();
    assert_eq!(case.command(&["kill", case.id(), "KILL"]).ok(), "");
    // With cgroup version 1 a frozen process takes even this signal only when it thaws.
    if case.status() == "paused" {
        case.command(&["resume", case.id()]).expect(0);
    }
    case.wait_for_status("stopped");
    case.command(&["delete", case.id()]).ok();
}

fn a_paused_container_can_be_deleted_by_force(case: &Case) {
    case.idle();
    case.command(&["pause", case.id()]).ok();
    case.command(&["delete", case.id()]).refused(1);
    case.remove_container();
}

fn a_created_container_can_be_paused(case: &Case) {
    case.create(&case.busybox().shell("echo runs"));
    case.command(&["pause", case.id()]).ok();
    assert_eq!(case.status(), "paused");
    case.command(&["start", case.id()]).refused(1);
    case.command(&["resume", case.id()]).ok();
    assert_eq!(case.status(), "created");
    case.command(&["start", case.id()]).ok();
    case.wait_for_output("runs");
    case.remove_container();
}

/// Returns what a container's processes can be frozen with, and what to write to it: cgroup
/// versions 1 and 2 each have their own.
fn freezers(case: &Case) -> Vec<(PathBuf, &'static str)> {
    let cgroups = leftovers::cgroups_named(case.id());
    let files = |(name, value): (&'static str, _)| {
        let paths = cgroups.iter().map(move |cgroup| cgroup.join(name));
        paths
            .filter(|path| path.exists())
            .map(move |path| (path, value))
    };
    let kinds = [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")];
    kinds.into_iter().flat_map(files).collect()
}

fn a_container_frozen_from_outside_is_paused(case: &Case) {
    case.idle();
    let freezers = freezers(case);
    assert!(!freezers.is_empty());
    let freeze = |(file, frozen): &(PathBuf, &str)| {
        fs::write(file, frozen).unwrap();
        case.wait_for_status("paused");
    };
    let patience = patience(case);
    for freezer in &freezers {
        freeze(freezer);
        let begun = Instant::now();
        let refused = case.command(&["exec", case.id(), "true"]);
        assert!(refused.refused(255).contains("paused"));
        case.command(&["pause", case.id()]).refused(1);
        assert!(begun.elapsed() < patience);
        case.command(&["resume", case.id()]).ok();
        assert_eq!(case.status(), "running");
        case.command(&["exec", case.id(), "true"]).ok();
    }
    freezers.iter().for_each(freeze);
    let begun = Instant::now();
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    assert!(begun.elapsed() < patience);
    case.command(&["delete", case.id()]).ok();
}

/// QEMU is stopped, or without it the monitor.
fn nobody_waits_for_long_for_a_guest_that_stands_still(case: &Case) {
    case.idle();
    let limit = patience(case);
    let role = if case.is_emulated() {
        Role::Qemu
    } else {
        Role::Monitor
    };
    let stop = || signal::kill(vm::with_role(case.id(), role)[0], Signal::SIGSTOP).unwrap();
    stop();
    let begun = Instant::now();
    case.command(&["kill", case.id(), "USR1"]).ok();
    assert!(begun.elapsed() < limit);
    let begun = Instant::now();
    case.command(&["events", "--stats", case.id()]).refused(1);
    assert!(begun.elapsed() < 3 * limit);
    let begun = Instant::now();
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    case.command(&["delete", case.id()]).ok();

    // Stops nacre's own processes, as somebody else might.
    let stand_in = case.idle();
    let limit = patience(case);
    let sandbox = vm::with_role(case.id(), Role::Sandbox)[0];
    signal::kill(sandbox, Signal::SIGSTOP).unwrap();
    signal::kill(stand_in, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let refused = case.command(&["exec", case.id(), "true"]).refused(255);
    assert!(refused.contains("SIGSTOP"), "{refused}");
    case.command(&["events", "--stats", case.id()]).refused(1);
    assert!(begun.elapsed() < limit);
    signal::kill(sandbox, Signal::SIGCONT).unwrap();
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for("the end of what stands for it", || {
        vm::with_role(case.id(), Role::StandIn).is_empty()
    });
    case.command(&["delete", case.id()]).ok();

    case.idle();
    let limit = patience(case);
    stop();
    let begun = Instant::now();
    case.remove_container();
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
}
