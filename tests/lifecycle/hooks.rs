//! Hooks: each kind at its place, with the state, and what a failing one does.

use std::fs;

use nacre_tests::{Bundle, Case};
use serde_json::{Value, json};

nacre_tests::tests![
    each_kind_at_its_place: Process,
    a_hook_gets_the_state: Process,
    arguments_and_environment,
    a_failing_hook_before_the_start: Process,
    a_failing_hook_at_the_start,
    failing_hooks_afterwards,
    a_hook_that_takes_too_long,
    a_hook_that_isnt_there,
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A hook that runs a shell script; what it writes is appended to the file `hooks`.
fn with_hook(case: &Case, bundle: Bundle, kind: &str, script: &str) -> Bundle {
    let log = log(case);
    let script = format!("exec >>{}; {script}", log.display());
    bundle.push(
        &format!("/hooks/{kind}"),
        json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] }),
    )
}

fn log(case: &Case) -> std::path::PathBuf {
    case.directory().join("hooks")
}

fn logged(case: &Case) -> String {
    fs::read_to_string(log(case)).unwrap_or_default()
}

/// A bundle in which every kind of hook writes its name. `startContainer` runs inside: the
/// container sees the same file.
fn with_all(case: &Case, bundle: Bundle) -> Bundle {
    fs::write(log(case), "").unwrap();
    let path = log(case).to_str().unwrap().to_owned();
    let bundle = bundle.mount(&path, "bind", &path, &["bind"]);
    KINDS.iter().fold(bundle, |bundle, kind| {
        with_hook(case, bundle, kind, &format!("echo {kind}"))
    })
}

fn each_kind_at_its_place(case: &Case) {
    let log = log(case).display().to_string();
    let bundle = with_all(case, case.busybox());
    let bundle = bundle.shell(&format!("sleep 0.3; echo workload >>{log}"));
    case.create(&bundle);
    assert_eq!(logged(case), "prestart\ncreateRuntime\ncreateContainer\n");
    case.command(&["start", case.id()]).ok();
    case.wait_for_status("stopped");
    let started = "prestart\ncreateRuntime\ncreateContainer\nstartContainer\npoststart\nworkload\n";
    assert_eq!(logged(case), started);
    case.command(&["delete", case.id()]).ok();
    assert_eq!(logged(case), format!("{started}poststop\n"));
    // `run` does it all.
    fs::write(self::log(case), "").unwrap();
    case.run(&bundle).ok();
    assert_eq!(logged(case), format!("{started}poststop\n"));
}

fn a_hook_gets_the_state(case: &Case) {
    let mut bundle = case
        .busybox()
        .annotation("key", "value")
        .args(["sleep", "1000"]);
    for kind in [
        "prestart",
        "createRuntime",
        "createContainer",
        "poststart",
        "poststop",
    ] {
        bundle = with_hook(case, bundle, kind, "cat; echo; readlink /proc/self/ns/mnt");
    }
    let pid = case.create(&bundle);
    let inside = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    case.command(&["start", case.id()]).ok();
    case.remove_container();
    let text = logged(case);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 10, "{text}");
    let pid = pid.as_raw();
    // As the container sees it where the hook is in the container's namespaces.
    let told = [
        ("creating", Some(pid)),
        ("creating", Some(pid)),
        ("creating", Some(1)),
        ("running", Some(pid)),
        ("stopped", None),
    ];
    for (hook, (status, pid)) in lines.chunks(2).zip(told) {
        let state: Value = serde_json::from_str(hook[0]).unwrap();
        assert_eq!(state["id"], case.id());
        assert_eq!(state["status"], status, "{text}");
        assert_eq!(state["bundle"], case.directory().to_str().unwrap());
        assert_eq!(state["annotations"]["key"], "value");
        assert!(state["ociVersion"].is_string());
        assert_eq!(state["pid"].as_i64(), pid.map(i64::from), "{text}");
    }
    // Only createContainer is in the container's namespaces.
    let where_they_are: Vec<&str> = lines.iter().skip(1).step_by(2).copied().collect();
    let inside = inside.to_str().unwrap();
    let expected = [false, false, true, false, false];
    let are_inside: Vec<bool> = where_they_are.iter().map(|ns| *ns == inside).collect();
    assert_eq!(are_inside, expected, "{text}");
}

fn arguments_and_environment(case: &Case) {
    let log = log(case);
    let bundle = case.busybox().push(
        "/hooks/createRuntime",
        json!({
            "path": "/bin/sh",
            "args": ["any name", "-c", "echo \"$0|$1|$A|$(env | grep -c NACRE_TEST)\" >$LOG", "zero", "a b"],
            "env": ["PATH=/usr/bin:/bin", "A=x y", format!("LOG={}", log.display())],
        }),
    );
    case.run(&bundle).ok();
    assert_eq!(logged(case), "zero|a b|x y|0\n");
}

fn a_failing_hook_before_the_start(case: &Case) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = case.busybox().shell("echo runs");
        let bundle = with_hook(case, bundle, kind, "echo the reason >&2; exit 3");
        let bundle = with_hook(case, bundle, "poststop", "echo poststop");
        for command in ["create", "run"] {
            let mut words = case.nacre();
            words
                .arg(command)
                .arg("--bundle")
                .arg(bundle.write())
                .arg(case.id());
            let outcome = case.spawn(words).finish();
            outcome.refused_somehow();
            assert_eq!(outcome.text(), "", "{kind}");
            assert_eq!(case.command(&["list", "-q"]).ok(), "", "{kind}");
            assert_eq!(logged(case), "poststop\n", "{kind}");
            fs::remove_file(log(case)).unwrap();
        }
    }
}

fn a_failing_hook_at_the_start(case: &Case) {
    let bundle = case.busybox().shell("echo runs").push(
        "/hooks/startContainer",
        json!({ "path": "/bin/false", "args": ["false"] }),
    );
    let bundle = with_hook(case, bundle, "poststop", "echo poststop");
    let outcome = case.run(&bundle);
    outcome.refused_somehow();
    assert_eq!(outcome.text(), "");
    assert_eq!(logged(case), "poststop\n");
}

/// They are told of, and nothing else: the container is there already, or gone.
fn failing_hooks_afterwards(case: &Case) {
    let bundle = case.busybox().args(["sleep", "1000"]);
    let bundle = with_hook(case, bundle, "poststop", "exit 3");
    let bundle = with_hook(case, bundle, "poststop", "echo the second");
    case.detach(&bundle);
    let outcome = case.command(&["delete", "--force", case.id()]);
    outcome.expect(0);
    case.command(&["state", case.id()]).refused(1);
    assert_eq!(logged(case), "the second\n");
}

fn a_hook_that_takes_too_long(case: &Case) {
    let bundle = case.busybox().shell("echo runs").push(
        "/hooks/createRuntime",
        json!({ "path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1 }),
    );
    let begin = std::time::Instant::now();
    let outcome = case.run(&bundle);
    outcome.refused_somehow();
    assert_eq!(outcome.text(), "");
    assert!(begin.elapsed() < std::time::Duration::from_secs(20));
}

fn a_hook_that_isnt_there(case: &Case) {
    for path in ["/no/such/hook", "relative"] {
        let hook = json!({ "path": path });
        let bundle = case.busybox().push("/hooks/createRuntime", hook);
        case.run(&bundle).refused_somehow();
    }
}
