//! `nacre pause` and `nacre resume`.

use std::thread;
use std::time::Duration;

use nacre_tests::Case;

nacre_tests::tests![
    a_paused_container_stands_still,
    what_cant_be_paused,
    a_paused_container_can_be_killed,
    a_paused_container_can_be_deleted_by_force,
    a_created_container_can_be_paused,
];

const COUNTS: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

fn counted(case: &Case) -> usize {
    case.output().lines().count()
}

fn a_paused_container_stands_still(case: &Case) {
    case.detach(&case.busybox().shell(COUNTS));
    case.wait_for_output("3\n");
    for _ in 0..3 {
        assert_eq!(case.command(&["pause", case.id()]).ok(), "");
        assert_eq!(case.status(), "paused");
        let before = counted(case);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(counted(case), before);
        assert!(case.command(&["list"]).ok().contains("paused"));
        assert_eq!(case.command(&["resume", case.id()]).ok(), "");
        assert_eq!(case.status(), "running");
        case.wait_for("more numbers", || counted(case) > before);
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
    // With version 1 of cgroups a frozen process takes even this signal only when it thaws.
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
