//! Cgroups that systemd makes.

use std::fs;
use std::process::Command;

use nacre_tests::systemd::Systemd;
use nacre_tests::{Bundle, Case, Outcome};
use serde_json::json;

nacre_tests::tests![
    a_container_is_a_scope,
    its_scope_is_what_the_configuration_names,
    a_scope_goes_with_a_killed_container,
    what_names_no_scope_is_refused,
    a_created_one_has_nothing_unasked_open: Process,
];

/// Returns `nacre --systemd-cgroup` with a command.
fn nacre(case: &Case, words: &[&str]) -> Command {
    let mut command = case.nacre();
    command.arg("--systemd-cgroup").args(words);
    command
}

#[track_caller]
fn run(systemd: &Systemd<'_>, case: &Case, words: &[&str]) -> Outcome {
    case.spawn(systemd.enter(&nacre(case, words))).finish()
}

/// Starts a detached container that sleeps.
#[track_caller]
fn detach(systemd: &Systemd<'_>, case: &Case, bundle: &Bundle) {
    let bundle = bundle.write();
    let words = ["run", "--detach", "--bundle", bundle.to_str().unwrap()];
    let command = nacre(case, &[&words[..], &[case.id()]].concat());
    assert_eq!(
        case.leave(systemd.as_unit(&command)),
        0,
        "{}",
        case.output()
    );
}

fn sleeping(case: &Case) -> Bundle {
    case.busybox().args(["sleep", "1000"])
}

fn a_container_is_a_scope(case: &Case) {
    let systemd = Systemd::start(case);
    let scope = format!("nacre-{}.scope", case.id());
    let bundle = sleeping(case).set(
        "/linux/resources",
        json!({"cpu": {"quota": 50_000, "period": 100_000, "shares": 512}}),
    );
    detach(&systemd, case, &bundle);
    assert_eq!(systemd.property(&scope, "ActiveState"), "active");
    assert_eq!(systemd.property(&scope, "Slice"), "system.slice");
    let cgroup = systemd.cgroup("system.slice").join(&scope);
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    assert!(!procs.is_empty());
    let quota = || fs::read_to_string(cgroup.join("cpu.max")).unwrap();
    assert_eq!(quota(), "50000 100000\n");
    // systemd knows the limit, so it doesn't write another one.
    let known = || systemd.property(&scope, "CPUQuotaPerSecUSec");
    assert_eq!(known(), "500ms");
    run(
        &systemd,
        case,
        &["update", "--cpu-quota", "25000", case.id()],
    )
    .ok();
    assert_eq!(quota(), "25000 100000\n");
    assert_eq!(known(), "250ms");
    systemd.run("systemctl", &["daemon-reload"]).ok();
    assert_eq!(quota(), "25000 100000\n");
    run(&systemd, case, &["delete", "--force", case.id()]).ok();
    assert!(!cgroup.exists());
    case.wait_for("the end of the scope", || {
        systemd.property(&scope, "LoadState") == "not-found"
    });
}

fn its_scope_is_what_the_configuration_names(case: &Case) {
    let systemd = Systemd::start(case);
    let path = format!("machine.slice:libpod:{}", case.id());
    let bundle = sleeping(case).set("/linux/cgroupsPath", json!(path));
    detach(&systemd, case, &bundle);
    let scope = format!("libpod-{}.scope", case.id());
    assert_eq!(systemd.property(&scope, "Slice"), "machine.slice");
    assert!(systemd.cgroup("machine.slice").join(&scope).exists());
    // The scope ends when the container ends by itself.
    run(&systemd, case, &["kill", case.id(), "KILL"]).ok();
    case.wait_for("the end of the scope", || {
        systemd.property(&scope, "LoadState") == "not-found"
    });
    run(&systemd, case, &["delete", case.id()]).ok();
    // The same in the foreground, with a status of its own.
    let bundle = case
        .busybox()
        .shell("exit 7")
        .set("/linux/cgroupsPath", json!(path));
    let bundle = bundle.write();
    let words = ["run", "--bundle", bundle.to_str().unwrap(), case.id()];
    let command = systemd.as_unit(&nacre(case, &words));
    case.spawn(command).finish().expect(7);
    assert!(!systemd.cgroup("machine.slice").join(&scope).exists());
}

fn a_scope_goes_with_a_killed_container(case: &Case) {
    let systemd = Systemd::start(case);
    let scope = format!("nacre-{}.scope", case.id());
    detach(&systemd, case, &sleeping(case));
    systemd
        .run("systemctl", &["kill", "--signal", "KILL", &scope])
        .ok();
    case.wait_for("the end of the scope", || {
        systemd.property(&scope, "LoadState") == "not-found"
    });
    run(&systemd, case, &["delete", case.id()]).ok();
}

fn what_names_no_scope_is_refused(case: &Case) {
    let systemd = Systemd::start(case);
    let bundle = sleeping(case).set("/linux/cgroupsPath", json!(format!("/{}", case.id())));
    let bundle = bundle.write();
    let words = ["run", "--bundle", bundle.to_str().unwrap(), case.id()];
    let outcome = run(&systemd, case, &words);
    outcome.refused_somehow();
    let message = "it must be slice:prefix:name";
    assert!(outcome.stderr.contains(message), "{outcome:?}");
}

/// The same check as in `descriptors.rs`, made where systemd is.
fn a_created_one_has_nothing_unasked_open(case: &Case) {
    let systemd = Systemd::start(case);
    let bundle = sleeping(case);
    let bundle = bundle.write().to_str().unwrap();
    let command = nacre(case, &["create", "--bundle", bundle, case.id()]);
    assert_eq!(
        case.leave(systemd.as_unit(&command)),
        0,
        "{}",
        case.output()
    );
    let state = run(&systemd, case, &["state", case.id()]).ok();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let script = format!(
        "cd /proc/{}/fd; for n in *; do echo $n $(readlink $n); done",
        state["pid"]
    );
    let mut look = Command::new("sh");
    look.args(["-c", &script]);
    let open = case.spawn(systemd.enter(&look)).finish().ok();
    let unasked: Vec<&str> = open.lines().skip(3).collect();
    assert!(
        matches!(unasked[..], [line] if line.contains(" socket:")),
        "{open}"
    );
    run(&systemd, case, &["delete", "--force", case.id()]).ok();
}
