//! Hooks: each kind at its place, with the state, and what a failing one does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nacre_tests::nacre::is_reference;
use nacre_tests::{Bundle, Case, Isolation, Outcome, leftovers};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

nacre_tests::tests![
    each_kind_at_its_place,
    a_hook_gets_the_state,
    arguments_and_environment,
    a_failing_hook_before_the_start,
    a_failing_hook_at_the_start,
    a_failing_hook_after_the_start,
    failing_hooks_afterwards,
    a_hook_that_takes_too_long,
    a_hook_that_isnt_there,
    what_follows_a_creation_that_is_killed,
    what_follows_a_run_that_is_killed,
    what_the_guest_cant_run: Vm,
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A hook that runs a shell script; what it writes is appended to the file `hooks` in the
/// container's root.
fn with_hook(case: &Case, bundle: Bundle, kind: &str, script: &str) -> Bundle {
    let log = match (kind, case.isolation()) {
        ("startContainer", _) => "/hooks".into(),
        ("createContainer", Isolation::Vm) => "/run/nacre/rootfs/hooks".into(),
        _ => log(case),
    };
    let script = format!("exec >>{}; {script}", log.display());
    let hook = json!({
        "path": shell_for(&bundle, kind),
        "args": ["sh", "-c", script],
        "env": ["PATH=/usr/bin:/bin"],
    });
    bundle.push(&format!("/hooks/{kind}"), hook)
}

/// A shell for a kind of hook: where it may be run in a guest, one that needs no other file.
fn shell_for(bundle: &Bundle, kind: &str) -> PathBuf {
    match kind {
        "createContainer" => bundle.rootfs().join("bin/busybox"),
        _ => "/bin/sh".into(),
    }
}

fn log(case: &Case) -> PathBuf {
    case.directory().join("rootfs/hooks")
}

fn logged(case: &Case) -> String {
    fs::read_to_string(log(case)).unwrap_or_default()
}

fn each_kind_at_its_place(case: &Case) {
    let bundle = KINDS.iter().fold(case.busybox(), |bundle, kind| {
        with_hook(case, bundle, kind, &format!("echo {kind}"))
    });
    let bundle =
        bundle.shell("until grep -q poststart /hooks; do sleep 0.05; done; echo workload >>/hooks");
    case.create(&bundle);
    assert_eq!(logged(case), "prestart\ncreateRuntime\ncreateContainer\n");
    case.command(&["start", case.id()]).ok();
    case.wait_for_status("stopped");
    let started = "prestart\ncreateRuntime\ncreateContainer\nstartContainer\npoststart\nworkload\n";
    assert_eq!(logged(case), started);
    case.command(&["delete", case.id()]).ok();
    assert_eq!(logged(case), format!("{started}poststop\n"));
    // `run` does it all.
    fs::remove_file(log(case)).unwrap();
    case.run(&bundle).ok();
    assert_eq!(logged(case), format!("{started}poststop\n"));
}

fn a_hook_gets_the_state(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("key", "value")
        .args(["sleep", "1000"]);
    let bundle = KINDS.iter().fold(bundle, |bundle, kind| {
        with_hook(case, bundle, kind, "cat; echo; readlink /proc/self/ns/mnt")
    });
    let pid = case.create(&bundle);
    case.command(&["start", case.id()]).ok();
    let inside = ["exec", case.id(), "readlink", "/proc/1/ns/mnt"];
    let inside = case.command(&inside).ok();
    case.remove_container();
    let outside = fs::read_link("/proc/self/ns/mnt").unwrap();
    let (inside, outside) = (inside.trim_end(), outside.to_str().unwrap());
    let text = logged(case);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 12, "{text}");
    let pid = pid.as_raw();
    // The pid is the one that the container sees where the hook is in its namespaces.
    let told = [
        ("creating", Some(pid), outside),
        ("creating", Some(pid), outside),
        ("creating", Some(1), inside),
        ("created", Some(1), inside),
        ("running", Some(pid), outside),
        ("stopped", None, outside),
    ];
    for (hook, (status, pid, namespace)) in lines.chunks(2).zip(told) {
        let state: Value = serde_json::from_str(hook[0]).unwrap();
        assert_eq!(state["id"], case.id());
        assert_eq!(state["status"], status, "{text}");
        assert_eq!(state["bundle"], case.directory().to_str().unwrap());
        assert_eq!(state["annotations"]["key"], "value");
        assert!(state["ociVersion"].is_string());
        assert_eq!(state["pid"].as_i64(), pid.map(i64::from), "{text}");
        assert_eq!(hook[1], namespace, "{text}");
    }
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

/// `nacre create` or `nacre run`.
fn make(case: &Case, command: &str, bundle: &Bundle) -> Outcome {
    let mut words = case.nacre();
    words.args([command, "--bundle"]).arg(bundle.write());
    words.arg(case.id());
    case.spawn(words).finish()
}

fn a_failing_hook_before_the_start(case: &Case) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = case.busybox().shell("echo runs");
        let bundle = with_hook(case, bundle, kind, "echo the reason >&2; exit 3");
        let bundle = with_hook(case, bundle, "poststop", "echo poststop");
        for command in ["create", "run"] {
            let outcome = make(case, command, &bundle);
            outcome.refused_somehow();
            assert!(outcome.stderr.contains("the reason"), "{kind}: {outcome:?}");
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

fn a_failing_hook_after_the_start(case: &Case) {
    let bundle = case.busybox().args(["sleep", "1000"]);
    let bundle = with_hook(case, bundle, "poststart", "echo the reason >&2; exit 3");
    case.create(&bundle);
    let outcome = case.command(&["start", case.id()]);
    outcome.refused_somehow();
    assert!(outcome.stderr.contains("the reason"), "{outcome:?}");
    case.wait_for_status("stopped");
    case.command(&["delete", case.id()]).ok();
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
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        let bundle = case.busybox().shell("echo runs");
        let hook = json!({
            "path": shell_for(&bundle, kind),
            "args": ["sh", "-c", "sleep 1000"],
            "env": ["PATH=/usr/bin:/bin"],
            "timeout": 1,
        });
        let bundle = bundle.push(&format!("/hooks/{kind}"), hook);
        let begin = Instant::now();
        let outcome = case.run(&bundle);
        outcome.refused_somehow();
        let said = is_reference() || outcome.stderr.contains("isn't done after 1 s");
        assert!(said, "{kind}: {outcome:?}");
        assert_eq!(outcome.text(), "");
        assert!(begin.elapsed() < Duration::from_secs(60), "{kind}");
    }
}

fn a_hook_that_isnt_there(case: &Case) {
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        for path in ["/no/such/hook", "relative"] {
            let hook = json!({ "path": path });
            let bundle = case.busybox().push(&format!("/hooks/{kind}"), hook);
            let outcome = case.run(&bundle);
            outcome.refused_somehow();
            let named = is_reference() || outcome.stderr.contains(&format!("hooks.{kind}[0]"));
            assert!(named, "{kind}: {outcome:?}");
        }
    }
}

/// A guest has no interpreter of the host's, neither a script's nor a program's dynamic linker.
fn what_the_guest_cant_run(case: &Case) {
    let script = case.directory().join("script");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for path in [script.to_str().unwrap(), "/bin/sh"] {
        let hook = json!({ "path": path });
        let bundle = case.busybox().push("/hooks/createContainer", hook);
        let message = case.run(&bundle).refused(1);
        assert!(
            message.contains("hooks.createContainer[0].path"),
            "{message}"
        );
        assert!(message.contains("linked statically"), "{message}");
    }
}

/// The hooks of a creation kill the command that runs them. What follows a deletion is run with it,
/// or when the id is taken anew.
fn what_follows_a_creation_that_is_killed(case: &Case) {
    let bundle = case.busybox().args(["true"]);
    let once = case.directory().join("once");
    let script = format!(
        "if mkdir {}; then kill -9 $PPID; else echo created; fi",
        once.display()
    );
    let bundle = with_hook(case, bundle, "createRuntime", &script);
    let bundle = with_hook(case, bundle, "poststop", "echo poststop");
    for command in ["create", "run"] {
        let killed = || {
            assert_eq!(make(case, command, &bundle).killed_by(), Some(9));
            case.wait_for_status("stopped");
            fs::remove_dir(&once).unwrap();
        };
        killed();
        case.command(&["delete", case.id()]).ok();
        assert_eq!(logged(case), "poststop\n", "{command}");
        fs::remove_file(log(case)).unwrap();
        killed();
        fs::create_dir(&once).unwrap();
        case.run(&bundle).ok();
        assert_eq!(logged(case), "poststop\ncreated\npoststop\n", "{command}");
        fs::remove_dir(&once).unwrap();
        fs::remove_file(log(case)).unwrap();
    }
}

/// With all of its processes, or alone: its container ends with it, or is deleted by force.
fn what_follows_a_run_that_is_killed(case: &Case) {
    let bundle = case
        .busybox()
        .shell("echo ready; while :; do sleep 0.1; done");
    let bundle = with_hook(case, bundle, "poststop", "echo poststop");
    for with_all in [false, true] {
        let mut running = case.start(&bundle);
        running.wait_for_line("ready");
        if with_all {
            running.signal(Signal::SIGSTOP);
            for (pid, _) in leftovers::processes(case.id()) {
                if pid != running.pid() {
                    // It may have ended with another.
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
        }
        running.signal(Signal::SIGKILL);
        case.command(&["delete", "--force", case.id()]).ok();
        assert_eq!(logged(case), "poststop\n", "{with_all}");
        running.finish();
        fs::remove_file(log(case)).unwrap();
    }
}
