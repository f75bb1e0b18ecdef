//! `hooks`, those that are part of a container's creation and start.

use std::fs;
use std::time::{Duration, Instant};

use nacre_agent::container::{CreateError, StartError, describe};
use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, leak, null_stdio, text};

tests![
    they_run_in_their_order_and_nothing_else_does,
    they_are_told_of_the_container,
    each_is_in_its_namespaces,
    those_of_the_caller_can_change_the_container,
    cve_2024_21626_one_in_the_container_gets_no_descriptor_of_the_callers,
    one_that_fails_takes_the_container_with_it,
    one_that_fails_at_start_keeps_the_workload_from_running,
    one_that_takes_too_long_is_killed,
    an_init_that_ends_meanwhile_is_told_of,
    a_filter_that_forbids_clone3_is_no_obstacle,
];

fn shell(script: &str) -> Value {
    json!({"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

/// A bundle with these hooks, one of each kind.
fn bundle<const N: usize>(hooks: [(&str, String); N]) -> Bundle {
    let mut bundle = Bundle::new("echo workload >> /log");
    for (kind, script) in hooks {
        bundle.config["hooks"][kind] = json!([shell(&script)]);
    }
    bundle
}

fn they_run_in_their_order_and_nothing_else_does() -> Result<(), Skipped> {
    let log = |bundle: &Bundle, word: &str| format!("echo {word} >> {}", text(&bundle.at("log")));
    let mut bundle = bundle([("startContainer", "echo startContainer >> /log".into())]);
    for kind in [
        "createContainer",
        "prestart",
        "createRuntime",
        "poststart",
        "poststop",
    ] {
        let twice = [
            shell(&log(&bundle, kind)),
            shell(&log(&bundle, &format!("{kind} again"))),
        ];
        bundle.config["hooks"][kind] = json!(twice);
    }
    let read = |bundle: &Bundle| fs::read_to_string(bundle.at("log")).unwrap();
    let created = "prestart\nprestart again\ncreateRuntime\ncreateRuntime again\n\
        createContainer\ncreateContainer again\n";
    let mut running = bundle.created();
    assert_eq!(read(&bundle), created);
    running.container().start().unwrap();
    assert_eq!(running.wait().status, 0);
    assert_eq!(
        read(&bundle),
        format!("{created}startContainer\nworkload\n")
    );
    Ok(())
}

fn they_are_told_of_the_container() -> Result<(), Skipped> {
    let mut bundle = bundle([("startContainer", "cat > /startContainer".into())]);
    bundle.config["annotations"] = json!({"a.b": "c"});
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let script = format!(
            "cat > {}; pwd >&2; test $PWD = {}",
            text(&bundle.at(kind)),
            text(bundle.write())
        );
        bundle.config["hooks"][kind] = json!([shell(&script)]);
    }
    let mut running = bundle.start();
    let init = running.container().pid().as_raw();
    assert_eq!(running.wait().status, 0);
    for (kind, pid, status) in [
        ("prestart", init, "creating"),
        ("createRuntime", init, "creating"),
        ("createContainer", 1, "creating"),
        ("startContainer", 1, "created"),
    ] {
        let told = fs::read_to_string(bundle.at(kind)).unwrap();
        let mut told: Value = serde_json::from_str(&told).unwrap();
        let id = told.as_object_mut().unwrap().remove("id").unwrap();
        assert!(id.as_str().unwrap().starts_with("nacre-test-"));
        assert_eq!(
            told,
            json!({
                "ociVersion": bundle.config["ociVersion"],
                "status": status,
                "pid": pid,
                "bundle": text(bundle.write()),
                "annotations": {"a.b": "c"},
            }),
            "{kind}"
        );
    }
    Ok(())
}

fn each_is_in_its_namespaces() -> Result<(), Skipped> {
    let mut bundle = bundle([(
        "startContainer",
        "ls / > /startContainer; id -u >> /startContainer".into(),
    )]);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    fs::write(bundle.at("startContainer"), "").unwrap();
    std::os::unix::fs::chown(bundle.at("startContainer"), Some(1000), None).unwrap();
    for kind in ["createRuntime", "createContainer"] {
        // The caller's files are there in both, the container's mounts in one.
        let script = format!(
            "{{ readlink /proc/self/ns/mnt; grep -c ' {}/proc ' /proc/self/mountinfo; umask; }} > {}",
            text(&bundle.at("")).trim_end_matches('/'),
            text(&bundle.at(kind))
        );
        bundle.config["hooks"][kind] = json!([shell(&format!("{script}; true"))]);
    }
    let _ = bundle.run();
    let read = |kind| fs::read_to_string(bundle.at(kind)).unwrap();
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(read("createRuntime"), format!("{}\n0\n0022\n", text(&own)));
    let of_the_container = read("createContainer");
    assert!(
        of_the_container.ends_with("\n1\n0022\n"),
        "{of_the_container}"
    );
    assert!(
        !of_the_container.starts_with(text(&own)),
        "{of_the_container}"
    );
    let inside = read("startContainer");
    assert!(
        inside.contains("bin\n") && !inside.contains("home\n"),
        "{inside}"
    );
    assert!(inside.ends_with("\n1000\n"), "{inside}");
    Ok(())
}

/// The init's pid, from what a hook is told.
const PID: &str = "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')";

fn those_of_the_caller_can_change_the_container() -> Result<(), Skipped> {
    // As network plugins do: by the pid that they are told.
    let script = format!("{PID}; nsenter -t $pid -u hostname hooked");
    let mut bundle = bundle([("createRuntime", script)]);
    bundle.config["process"]["args"] = json!(["hostname"]);
    bundle.config.as_object_mut().unwrap().remove("hostname");
    assert_eq!(bundle.output(), "hooked\n");
    Ok(())
}

// CVE-2024-21626.
fn cve_2024_21626_one_in_the_container_gets_no_descriptor_of_the_callers() -> Result<(), Skipped> {
    let leaky = fs::File::open("/").unwrap();
    leak(&leaky);
    let bundle = bundle([(
        "startContainer",
        "exec ls /proc/self/fd > /startContainer".into(),
    )]);
    bundle.output();
    let inside = fs::read_to_string(bundle.at("startContainer")).unwrap();
    // The last one is that of the directory being listed.
    assert_eq!(inside, "0\n1\n2\n3\n");
    Ok(())
}

fn one_that_fails_takes_the_container_with_it() -> Result<(), Skipped> {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = bundle([(kind, "echo broken >&2; exit 3".into())]);
        let expected = format!("hooks.{kind}[0] (/bin/busybox): exit status 3, output: broken");
        assert_eq!(bundle.error(), (expected, 1));
        bundle.config["hooks"][kind] = json!([{"path": "/no/such/hook"}]);
        let (message, _) = bundle.error();
        let expected = format!("hooks.{kind}[0] (/no/such/hook): can't run it: No such file");
        assert!(message.starts_with(&expected), "{message}");
    }
    Ok(())
}

fn one_that_fails_at_start_keeps_the_workload_from_running() -> Result<(), Skipped> {
    let bundle = bundle([("startContainer", "exit 3".into())]);
    let mut container = bundle.create(null_stdio()).unwrap();
    let error = container.start().unwrap_err();
    assert!(matches!(error, StartError::Exec { .. }));
    assert_eq!(
        (describe(&error).as_str(), error.exit_status()),
        ("hooks.startContainer[0] (/bin/busybox): exit status 3", 1)
    );
    container.destroy().unwrap();
    assert!(!bundle.at("log").exists());
    Ok(())
}

fn one_that_takes_too_long_is_killed() -> Result<(), Skipped> {
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        let mut bundle = bundle([(kind, "sleep 60 & sleep 60".into())]);
        bundle.config["hooks"][kind][0]["timeout"] = json!(1);
        let started = Instant::now();
        let message = match bundle.create(null_stdio()) {
            Err(CreateError::Hook(error)) => error.to_string(),
            Err(error) => describe(&error),
            Ok(mut container) => {
                let error = describe(&container.start().unwrap_err());
                container.destroy().unwrap();
                error
            }
        };
        let expected =
            format!("hooks.{kind}[0] (/bin/busybox): it isn't done after 1 s (its timeout)");
        assert!(message.starts_with(&expected), "{message}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    Ok(())
}

fn an_init_that_ends_meanwhile_is_told_of() -> Result<(), Skipped> {
    let bundle = bundle([("createRuntime", format!("{PID}; kill -9 $pid; sleep 0.1"))]);
    assert_eq!(
        bundle.error().0,
        "the container's init ended before it was ready: killed by SIGKILL"
    );
    Ok(())
}

/// As many profiles do, which can't look at its arguments.
fn a_filter_that_forbids_clone3_is_no_obstacle() -> Result<(), Skipped> {
    let mut bundle = bundle([("startContainer", "echo hook >> /log".into())]);
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["clone3"], "action": "SCMP_ACT_ERRNO"}],
    });
    assert_eq!(bundle.run().status, 0);
    assert_eq!(
        fs::read_to_string(bundle.at("log")).unwrap(),
        "hook\nworkload\n"
    );
    Ok(())
}
