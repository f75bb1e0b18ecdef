//! A container that outlives `nacre run`, and the commands that deal with it.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nacre_tests::{Bundle, Case, Outcome};
use serde_json::Value;

nacre_tests::tests![
    from_run_to_delete,
    delete_ends_what_runs_if_told_to,
    commands_for_a_container_that_isnt_there,
    a_sandbox_that_was_killed_can_be_deleted,
];

/// Runs a `nacre` command on this test's container.
fn command(case: &Case, arguments: &[&str]) -> Outcome {
    let mut command = case.nacre();
    command.args(arguments);
    case.spawn(command).finish()
}

/// Starts the container in the background, its output in the file `output`.
fn detach(case: &Case, bundle: &Bundle) {
    let output = File::create(case.directory().join("output")).unwrap();
    let mut command: Command = case.nacre();
    command
        .args(["run", "--detach", "--pid-file"])
        .arg(case.directory().join("pid"))
        .arg("--bundle")
        .arg(bundle.write())
        .arg(case.id())
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    assert!(command.status().unwrap().success());
}

fn state(case: &Case) -> Value {
    serde_json::from_str(&command(case, &["state", case.id()]).ok()).unwrap()
}

/// Waits until the container's state says so.
fn wait_for_status(case: &Case, status: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    while state(case)["status"] != status {
        assert!(Instant::now() < end, "not {status}: {}", state(case));
        thread::sleep(Duration::from_millis(50));
    }
}

fn from_run_to_delete(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("some.annotation", "its value")
        .shell("trap 'echo ended; exit 9' TERM; echo runs; while :; do sleep 0.05; done");
    detach(case, &bundle);

    let running = state(case);
    assert_eq!(running["id"], case.id());
    assert_eq!(running["status"], "running");
    assert_eq!(running["bundle"], case.directory().to_str().unwrap());
    assert_eq!(running["annotations"]["some.annotation"], "its value");
    assert_eq!(running["isolation"], "vm");
    assert!(running["guestKernel"].as_str().unwrap().starts_with("6."));
    let pid = fs::read_to_string(case.directory().join("pid")).unwrap();
    assert_eq!(running["pid"].to_string(), pid);

    assert!(command(case, &["list"]).ok().contains(case.id()));
    assert_eq!(
        command(case, &["list", "-q"]).ok(),
        format!("{}\n", case.id())
    );
    let message = command(case, &["delete", case.id()]).refused(1);
    assert!(message.contains("running"), "{message}");

    assert_eq!(command(case, &["kill", case.id(), "TERM"]).ok(), "");
    wait_for_status(case, "stopped");
    let output = fs::read_to_string(case.directory().join("output")).unwrap();
    assert_eq!(output, "runs\nended\n");
    let message = command(case, &["kill", case.id(), "TERM"]).refused(1);
    assert!(message.contains(case.id()), "{message}");

    assert_eq!(command(case, &["delete", case.id()]).ok(), "");
    assert_eq!(command(case, &["list", "-q"]).ok(), "");
}

fn delete_ends_what_runs_if_told_to(case: &Case) {
    detach(case, &case.busybox().args(["sleep", "1000"]));
    assert_eq!(command(case, &["delete", "--force", case.id()]).ok(), "");
    assert_eq!(command(case, &["list", "-q"]).ok(), "");
    // There is none any more, which is what was wanted.
    assert_eq!(command(case, &["delete", "--force", case.id()]).ok(), "");
}

fn commands_for_a_container_that_isnt_there(case: &Case) {
    for arguments in [
        ["state", case.id()],
        ["kill", case.id()],
        ["delete", case.id()],
    ] {
        let message = command(case, &arguments).refused(1);
        assert!(message.contains(case.id()), "{message}");
    }
}

fn a_sandbox_that_was_killed_can_be_deleted(case: &Case) {
    detach(case, &case.busybox().args(["sleep", "1000"]));
    assert_eq!(command(case, &["kill", case.id(), "KILL"]).ok(), "");
    wait_for_status(case, "stopped");
    assert_eq!(command(case, &["delete", case.id()]).ok(), "");
}
