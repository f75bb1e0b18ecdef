//! Containers that are created, started, ended and deleted by separate commands.

use std::fs;

use nacre_tests::Case;
use nacre_tests::suite::side_by_side;
use nix::unistd::Pid;

nacre_tests::tests![
    a_life_in_four_commands,
    nothing_runs_before_start,
    start_needs_a_created_container,
    delete_needs_an_ended_container,
    delete_removes_what_was_never_started,
    delete_ends_what_runs_if_told_to,
    an_id_in_use,
    ids_are_plain_names,
    commands_for_a_container_that_isnt_there,
    what_cant_be_created_leaves_nothing,
    many_containers_side_by_side,
];

/// Returns whether the process exists and hasn't ended: one that has ended may wait to be reaped.
fn is_alive(pid: Pid) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn a_life_in_four_commands(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("some.annotation", "its value")
        .shell("echo runs; trap 'echo ends; exit 3' TERM; while :; do sleep 0.05; done");
    let pid = case.create(&bundle);
    let state = case.inspect();
    assert_eq!(state["id"], case.id());
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], pid.as_raw());
    assert_eq!(state["bundle"], case.directory().to_str().unwrap());
    assert_eq!(state["annotations"]["some.annotation"], "its value");
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
    assert!(is_alive(pid));

    assert_eq!(case.command(&["start", case.id()]).ok(), "");
    case.wait_for_output("runs");
    let state = case.inspect();
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"], pid.as_raw());

    assert_eq!(case.command(&["kill", case.id(), "TERM"]).ok(), "");
    case.wait_for_status("stopped");
    assert_eq!(case.output(), "runs\nends\n");
    assert_eq!(case.inspect()["pid"], 0);

    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    case.command(&["state", case.id()]).refused(1);
}

fn nothing_runs_before_start(case: &Case) {
    let bundle = case.busybox().shell("echo runs; echo >/marker");
    let marker = bundle.rootfs().join("marker");
    case.create(&bundle);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(case.output(), "");
    assert!(!marker.exists());
    assert_eq!(case.command(&["start", case.id()]).ok(), "");
    case.wait_for_status("stopped");
    assert_eq!(case.output(), "runs\n");
    assert!(marker.exists());
    case.remove_container();
}

fn start_needs_a_created_container(case: &Case) {
    case.create(&case.busybox().args(["sleep", "1000"]));
    case.command(&["start", case.id()]).ok();
    case.command(&["start", case.id()]).refused(1);
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    case.command(&["start", case.id()]).refused(1);
    case.command(&["delete", case.id()]).ok();
    case.command(&["start", case.id()]).refused(1);
}

fn delete_needs_an_ended_container(case: &Case) {
    let pid = case.idle();
    let message = case.command(&["delete", case.id()]).refused(1);
    assert!(message.contains(case.id()), "{message}");
    assert_eq!(case.status(), "running");
    assert!(is_alive(pid));
    case.remove_container();
    assert!(!is_alive(pid));
}

fn delete_removes_what_was_never_started(case: &Case) {
    let pid = case.create(&case.busybox().shell("echo runs"));
    assert_eq!(case.command(&["delete", case.id()]).ok(), "");
    assert!(!is_alive(pid));
    assert_eq!(case.output(), "");
    assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
}

fn delete_ends_what_runs_if_told_to(case: &Case) {
    // Only KILL ends it, and it isn't alone.
    let bundle = case.busybox().shell(
        "trap '' TERM HUP INT; for i in 1 2 3; do sleep 1000 & done; echo ready
         while :; do sleep 1; done",
    );
    case.detach(&bundle);
    case.wait_for_output("ready");
    case.remove_container();
    case.command(&["delete", case.id()]).refused(1);
    // There is no container any more, which is what was wanted.
    case.remove_container();
}

fn an_id_in_use(case: &Case) {
    let bundle = case.busybox().args(["sleep", "1000"]);
    let pid = case.create(&bundle);
    for words in [["create"].as_slice(), &["run"], &["run", "--detach"]] {
        let mut command = case.nacre();
        command.args(words).arg("--bundle").arg(bundle.write());
        command.arg(case.id());
        case.spawn(command).finish().refused(1);
    }
    // The first container is unaffected.
    let state = case.inspect();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], pid.as_raw());
    case.command(&["start", case.id()]).ok();
    case.remove_container();
}

fn ids_are_plain_names(case: &Case) {
    let bundle = case.busybox();
    bundle.write();
    let directory = case.directory().to_str().unwrap();
    for id in ["", ".", "..", "a/b", "../a", "a b", "a\n", "ä"] {
        case.command(&["create", "--bundle", directory, id])
            .refused(1);
    }
}

fn commands_for_a_container_that_isnt_there(case: &Case) {
    for words in [
        ["start", case.id()].as_slice(),
        &["state", case.id()],
        &["kill", case.id()],
        &["delete", case.id()],
        &["exec", case.id(), "true"],
        &["ps", case.id()],
        &["pause", case.id()],
        &["resume", case.id()],
        &["update", "--pids-limit", "5", case.id()],
        &["events", "--stats", case.id()],
    ] {
        let outcome = case.command(words);
        assert!(
            outcome.status().is_some_and(|status| status != 0),
            "{words:?}: {outcome:?}"
        );
        assert!(
            outcome.stderr.contains(case.id()) || nacre_tests::nacre::is_reference(),
            "{words:?}: {outcome:?}"
        );
    }
}

/// These fail at different depths: the harness sees that nothing stays.
fn what_cant_be_created_leaves_nothing(case: &Case) {
    let bad = [
        case.busybox().args(["/no/such/program"]),
        case.busybox().set("/process/cwd", "/etc/passwd"),
        case.busybox()
            .mount("/data", "bind", "/no/such/source", &["bind"]),
        case.busybox().set("/root/path", "no-such-root"),
        case.busybox()
            .set("/linux/resources/pids", serde_json::json!({ "limit": 10 }))
            .set(
                "/linux/resources/blockIO/throttleReadBpsDevice",
                serde_json::json!([{ "major": 1000, "minor": 0, "rate": 1 }]),
            ),
        case.busybox().set(
            "/linux/namespaces/0",
            serde_json::json!({ "type": "pid", "path": "/no/such/namespace" }),
        ),
    ];
    for bundle in bad {
        let mut command = case.nacre();
        command.args(["create", "--bundle"]).arg(bundle.write());
        command.arg(case.id());
        let outcome = case.spawn(command).finish();
        assert!(outcome.status().is_some_and(|status| status != 0));
        assert_ne!(outcome.stderr, "");
        assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
        assert!(nacre_tests::leftovers::cgroups_named(case.id()).is_empty());
        fs::read_dir(case.directory().join("rootfs")).unwrap();
    }
}

fn many_containers_side_by_side(case: &Case) {
    let bundle = case.busybox().shell("echo one of many; sleep 1000");
    let directory = bundle.write().to_str().unwrap();
    let ids: Vec<String> = (0..10).map(|n| format!("{}-{n}", case.id())).collect();
    side_by_side(&ids, |id| {
        let mut command = case.nacre();
        command.args(["create", "--bundle", directory, id]);
        assert_eq!(case.leave(command), 0, "{id}: {}", case.output());
        assert_eq!(case.command(&["start", id]).ok(), "");
    });
    let mut listed: Vec<String> = case
        .command(&["list", "--quiet"])
        .ok()
        .lines()
        .map(str::to_owned)
        .collect();
    listed.sort();
    assert_eq!(listed, ids);
    case.wait_for("ten lines", || case.output().lines().count() == ids.len());
    side_by_side(&ids, |id| {
        assert_eq!(case.command(&["delete", "--force", id]).ok(), "");
    });
    assert_eq!(case.command(&["list", "--quiet"]).ok(), "");
}
