//! Hooks: each kind at its point of the life cycle, with the state, and what a failing one does.

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
    a_hook_changes_the_container: Process,
    a_hook_ends_the_container: Process,
    a_filter_that_forbids_clone3_is_no_obstacle,
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// Adds a hook that runs a shell script, whose output is appended to the file `hooks` in the
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

/// Returns a shell for a kind of hook: where it may run in a guest, one that needs no other file.
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
        let bundle = with_hook(case, bundle, kind, &format!("echo {kind}"));
        with_hook(case, bundle, kind, &format!("echo {kind} again"))
    });
    let bundle = bundle.shell(
        "until grep -q 'poststart again' /hooks; do sleep 0.05; done; echo workload >>/hooks",
    );
    let twice = |kinds: &[&str]| -> String {
        let lines = kinds.iter().map(|kind| format!("{kind}\n{kind} again\n"));
        lines.collect()
    };
    case.create(&bundle);
    assert_eq!(logged(case), twice(&KINDS[..3]));
    case.command(&["start", case.id()]).ok();
    case.wait_for_status("stopped");
    let started = format!("{}workload\n", twice(&KINDS[..5]));
    assert_eq!(logged(case), started);
    case.command(&["delete", case.id()]).ok();
    let whole = format!("{started}{}", twice(&KINDS[5..]));
    assert_eq!(logged(case), whole);
    // `run` runs them all.
    fs::remove_file(log(case)).unwrap();
    case.run(&bundle).ok();
    assert_eq!(logged(case), whole);
}

fn a_hook_gets_the_state(case: &Case) {
    let bundle = case
        .busybox()
        .annotation("key", "value")
        .args(["sleep", "1000"]);
    let bundle = KINDS.iter().fold(bundle, |bundle, kind| {
        let script = "cat; echo; readlink /proc/self/ns/mnt; pwd";
        with_hook(case, bundle, kind, script)
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
    assert_eq!(lines.len(), 18, "{text}");
    let pid = pid.as_raw();
    // The pid is the one that the container sees if the hook runs in its namespaces.
    let told = [
        ("creating", Some(pid), outside),
        ("creating", Some(pid), outside),
        ("creating", Some(1), inside),
        ("created", Some(1), inside),
        ("running", Some(pid), outside),
        ("stopped", None, outside),
    ];
    let directory = case.directory().to_str().unwrap();
    for ((hook, kind), (status, pid, namespace)) in lines.chunks(3).zip(KINDS).zip(told) {
        let mut state: Value = serde_json::from_str(hook[0]).unwrap();
        let version = state["ociVersion"].take();
        assert!(version == "1.0.2-dev" || is_reference(), "{text}");
        assert_eq!(state["pid"].take().as_i64(), pid.map(i64::from), "{text}");
        let expected = json!({
            "id": case.id(), "status": status, "bundle": directory,
            "annotations": { "key": "value" }, "ociVersion": null, "pid": null,
        });
        assert_eq!(state, expected, "{text}");
        assert_eq!(hook[1], namespace, "{text}");
        // Which the container doesn't see, nor a guest.
        let sees_bundle = match case.isolation() {
            Isolation::Process => kind != "startContainer",
            Isolation::Vm => namespace == outside,
        };
        assert!(!sees_bundle || hook[2] == directory, "{text}");
    }
}

/// A hook has those of its own entry, or else the process's in the container's namespaces, or the
/// caller's.
fn arguments_and_environment(case: &Case) {
    let log = log(case);
    let script = "echo \"$0|$1|$A|$B|$(env | grep -c ^NACRE_TEST_CASE=)\"";
    let hook = |kind: &str, env: Value| {
        let log = match (kind, case.isolation()) {
            ("startContainer", _) => "/hooks".into(),
            ("createContainer", Isolation::Vm) => "/run/nacre/rootfs/hooks".into(),
            _ => log.display().to_string(),
        };
        let script = format!("{script} >>{log}");
        let mut hook = json!({
            "path": shell_for(&case.busybox(), kind),
            "args": ["sh", "-c", script, "zero", "a b"],
        });
        if !env.is_null() {
            hook["env"] = env;
        }
        hook
    };
    let own = json!(["PATH=/usr/bin:/bin", "A=x y"]);
    let bundle = case
        .busybox()
        .push("/process/env", "B=process")
        .push("/hooks/createRuntime", hook("createRuntime", own))
        .push("/hooks/createRuntime", hook("createRuntime", Value::Null))
        .push(
            "/hooks/createContainer",
            hook("createContainer", Value::Null),
        )
        .push("/hooks/startContainer", hook("startContainer", Value::Null))
        .push("/hooks/poststop", hook("poststop", Value::Null));
    case.run(&bundle).ok();
    let expected = [
        "zero|a b|x y||0",
        "zero|a b|||1",
        "zero|a b||process|0",
        "zero|a b||process|0",
        "zero|a b|||1",
    ];
    assert_eq!(logged(case).lines().collect::<Vec<_>>(), expected);
}

/// Runs `nacre create` or `nacre run`.
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
            let message = make(case, command, &bundle).refused(1);
            for said in [
                &format!("hooks.{kind}[0] ("),
                ": exit status 3, output: ",
                "the reason",
            ] {
                let is_said = message.contains(said) || is_reference() && said != "the reason";
                assert!(is_said, "{kind}: {message}");
            }
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
    let message = case.run(&bundle).refused(1);
    let said = "hooks.startContainer[0] (/bin/false): exit status 1";
    assert!(is_reference() || message.contains(said), "{message}");
    assert_eq!(logged(case), "poststop\n");
}

/// The failure ends the container, as the runtime spec says (step 9 of its life cycle).
fn a_failing_hook_after_the_start(case: &Case) {
    let bundle = case.busybox().args(["sleep", "1000"]);
    let bundle = with_hook(case, bundle, "poststart", "echo the reason >&2; exit 3");
    let bundle = with_hook(case, bundle, "poststop", "echo poststop");
    case.create(&bundle);
    for outcome in [case.command(&["start", case.id()]), case.run(&bundle)] {
        outcome.refused_somehow();
        assert!(outcome.stderr.contains("the reason"), "{outcome:?}");
        if is_reference() {
            // runc leaves a stopped container.
            case.command(&["delete", "--force", case.id()]).ok();
        }
        assert_eq!(case.command(&["list", "-q"]).ok(), "");
    }
    assert_eq!(logged(case), "poststop\npoststop\n");
}

/// They are reported, with no other effect: the container already exists, or is gone.
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
        // By this mark the harness finds what is left of it.
        let mark = format!("{}={}", leftovers::MARK, case.id());
        let hook = json!({
            "path": shell_for(&bundle, kind),
            "args": ["sh", "-c", "sleep 1000 & sleep 1000"],
            "env": ["PATH=/usr/bin:/bin", mark],
            "timeout": 1,
        });
        let bundle = bundle.push(&format!("/hooks/{kind}"), hook);
        let begin = Instant::now();
        let outcome = case.run(&bundle);
        outcome.refused_somehow();
        let said = format!("hooks.{kind}[0] (");
        for said in [&said, "): it isn't done after 1 s (its timeout)"] {
            let is_said = outcome.stderr.contains(said);
            assert!(is_reference() || is_said, "{kind}: {outcome:?}");
        }
        assert_eq!(outcome.text(), "");
        assert!(begin.elapsed() < Duration::from_secs(60), "{kind}");
    }
}

fn a_hook_that_isnt_there(case: &Case) {
    for kind in &KINDS[..4] {
        for path in ["/no/such/hook", "relative"] {
            let hook = json!({ "path": path });
            let bundle = case.busybox().push(&format!("/hooks/{kind}"), hook);
            let outcome = case.run(&bundle);
            outcome.refused_somehow();
            let named = is_reference() || outcome.stderr.contains(&format!("hooks.{kind}[0]"));
            assert!(named, "{kind}: {outcome:?}");
            if path.starts_with('/') && case.isolation() == Isolation::Process && !is_reference() {
                let why = format!("hooks.{kind}[0] ({path}): can't run it: No such file");
                assert!(outcome.stderr.contains(&why), "{outcome:?}");
            }
        }
    }
}

/// A guest has no interpreter of the host, neither a script's nor a program's dynamic linker.
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

/// Reads the pid of the container's first process from the state that a hook is given.
const PID: &str = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')";

/// As network plugins do: by the pid that they are given.
fn a_hook_changes_the_container(case: &Case) {
    let bundle = case.busybox().remove("/hostname").args(["hostname"]);
    let script = format!("{PID}; nsenter -t $pid -u hostname hooked");
    let bundle = with_hook(case, bundle, "createRuntime", &script);
    assert_eq!(case.run(&bundle).ok(), "hooked\n");
}

fn a_hook_ends_the_container(case: &Case) {
    let script = format!("{PID}; kill -9 $pid; sleep 0.1");
    let bundle = with_hook(case, case.busybox(), "createRuntime", &script);
    let message = case.run(&bundle).refused(1);
    let said = "the container's init ended before it was ready: killed by SIGKILL";
    assert!(is_reference() || message.ends_with(said), "{message}");
}

/// Many profiles do this, because filters can't look at its arguments.
fn a_filter_that_forbids_clone3_is_no_obstacle(case: &Case) {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["clone3"], "action": "SCMP_ACT_ERRNO" }],
    });
    let bundle = case.busybox().set("/linux/seccomp", filter);
    let bundle = with_hook(case, bundle, "startContainer", "echo hook");
    case.run(&bundle.shell("echo workload >>/hooks")).ok();
    assert_eq!(logged(case), "hook\nworkload\n");
}

/// A hook of the creation kills the command that runs it. The hooks after a deletion run with the
/// deletion, or when the id is used anew.
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

/// The command is killed with all of its processes, or alone: its container ends with it, or is
/// deleted by force.
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
                    // It may have ended with another one.
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
