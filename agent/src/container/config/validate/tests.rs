//! Tests of what is refused and what is taken.

use serde_json::{Value, json};

use super::super::load::load;
use super::super::load::tests::sample;
use crate::container::error::describe;

/// Loads the sample with `value` at `pointer`, whose last part may be new.
fn load_with(pointer: &str, value: Value) -> Result<(), String> {
    let mut config = sample();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap()[name] = value;
    load(config.to_string().as_bytes())
        .map(drop)
        .map_err(|e| describe(&e))
}

#[test]
fn versions_of_the_spec_that_are_known_are_taken() {
    for version in [
        "1.0.0",
        "1.0.0-rc5",
        "1.0.2-dev",
        "1.1.0",
        "1.2.1",
        "1.2.0+x",
        "1.3.0",
    ] {
        load_with("/ociVersion", json!(version)).unwrap();
    }
    for version in ["0.9.0", "2.0.0", "1.4.0", "9.9.9"] {
        let error = load_with("/ociVersion", json!(version)).unwrap_err();
        assert!(error.contains("isn't known here"), "{error}");
    }
    for version in ["1", "1.0", "one", "1.0.x", "1.0.0.0", "-1.0.0", "v1.0.0"] {
        let error = load_with("/ociVersion", json!(version)).unwrap_err();
        assert!(error.contains("isn't a version"), "{error}");
    }
}

#[test]
fn what_is_not_done_yet_is_refused_by_name() {
    for (pointer, value) in [
        ("/vm", json!({"kernel": {"path": "/x"}})),
        ("/linux/intelRdt", json!({"closID": "x"})),
    ] {
        let field = pointer[1..].replace('/', ".");
        assert_eq!(
            load_with(pointer, value).unwrap_err(),
            format!("{field} isn't supported yet")
        );
    }
}

#[test]
fn values_that_ask_for_nothing_are_taken() {
    for (pointer, value) in [
        ("/process/terminal", Value::Null),
        ("/process/consoleSize", json!({"height": 1, "width": 1})),
        ("/process/apparmorProfile", json!("")),
        ("/process/selinuxLabel", json!("")),
        ("/process/capabilities", Value::Null),
        ("/process/rlimits", json!([])),
        ("/hooks", json!({"prestart": [], "poststop": null})),
        ("/hooks", json!({})),
        ("/linux/uidMappings", json!([])),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}),
        ),
        ("/linux/mountLabel", json!("")),
        ("/linux/rootfsPropagation", json!("")),
        ("/linux/cgroupsPath", json!("")),
        ("/linux/resources", json!({})),
        ("/linux/maskedPaths", Value::Null),
        ("/annotations", json!({"a": "b"})),
        ("/hostname", json!("")),
        ("/somethingElse", json!({"of": "the future"})),
    ] {
        load_with(pointer, value).unwrap_or_else(|e| panic!("{pointer}: {e}"));
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let long = "x".repeat(65);
    for (pointer, value, error) in [
        ("/root/path", json!(""), "root.path is missing"),
        ("/process/args", json!([]), "process.args is missing"),
        ("/process/args", Value::Null, "process.args is missing"),
        (
            "/process/cwd",
            json!("tmp"),
            "process.cwd: \"tmp\" isn't absolute",
        ),
        ("/process/cwd", json!(""), "process.cwd is missing"),
        (
            "/process/env",
            json!(["X"]),
            "process.env[0]: \"X\" isn't NAME=VALUE",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            "process.rlimits[1]: there are two of RLIMIT_CPU",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]),
            "process.rlimits[0]: the soft limit 2 of RLIMIT_CPU is over the hard limit 1",
        ),
        (
            "/process/capabilities/permitted",
            json!([]),
            "process.capabilities.effective: CAP_KILL isn't in the permitted set",
        ),
        (
            "/process",
            json!({"user": {}, "cwd": "/", "args": ["x"], "terminal": true,
                   "consoleSize": {"height": 1, "width": 65536}}),
            "process.consoleSize.width: 65536 is over 65535",
        ),
        (
            "/process/commandLine",
            json!("x"),
            "process.commandLine: it is for containers of another operating system",
        ),
        (
            "/process/user/username",
            json!("x"),
            "process.user.username: it is for containers of another operating system",
        ),
        (
            "/windows",
            json!({"layerFolders": ["x"]}),
            "windows: it is for containers of another operating system",
        ),
        (
            "/process/scheduler",
            json!({"policy": "SCHED_FIFO"}),
            "process.scheduler.priority: 0 isn't between 1 and 99",
        ),
        (
            "/process/execCPUAffinity",
            json!({"initial": "3-1"}),
            "process.execCPUAffinity.initial: \"3-1\" isn't a list of CPUs, like 0-2,4",
        ),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND"}),
            "linux.memoryPolicy.nodes: MPOL_BIND needs some",
        ),
        (
            "/hooks",
            json!({"poststop": [{"path": "x"}]}),
            "hooks.poststop[0].path: \"x\" isn't absolute",
        ),
        (
            "/process/oomScoreAdj",
            json!(1001),
            "process.oomScoreAdj: 1001 isn't between -1000 and 1000",
        ),
        (
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_BE", "priority": 9}),
            "process.ioPriority.priority: 9 isn't between 0 and 7",
        ),
        (
            "/linux/personality",
            json!({"domain": "LINUX32", "flags": ["x"]}),
            "linux.personality.flags: the runtime spec has no flag that could be set",
        ),
        (
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 1}}),
            "linux.timeOffsets.boottime: it needs a new time namespace, which the container lacks",
        ),
        (
            "/process/user/umask",
            json!(512),
            "process.user.umask: 0o1000 is over 0o777",
        ),
        (
            "/process/user/uid",
            json!(4294967295u32),
            "process.user.uid: 4294967295 isn't an id",
        ),
        (
            "/mounts/1/options",
            json!(["idmap"]),
            "mounts[1].options: mount option \"idmap\" is for bind mounts only",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]),
            "linux.namespaces[2]: there are two pid namespaces",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "uts"}]),
            "mounts: it needs a new mount namespace, which the container lacks",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "user"}]),
            "linux.uidMappings is missing",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]),
            "mounts: it needs a new mount namespace, which the container lacks",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "network", "path": "x"}]),
            "linux.namespaces[1].path: \"x\" isn't absolute",
        ),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}]),
            "hostname: it needs a uts namespace, which the container lacks",
        ),
        (
            "/hostname",
            json!(long),
            "hostname: 65 bytes are over the kernel's limit of 64",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.pid_max": "1"}),
            "linux.sysctl.kernel.pid_max: it isn't a parameter of a namespace, but of the whole kernel",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation: \"sideways\" isn't private, slave, shared or unbindable",
        ),
        (
            "/linux/maskedPaths",
            json!(["/proc/kcore", "proc"]),
            "linux.maskedPaths[1]: \"proc\" isn't absolute",
        ),
        (
            "/linux/readonlyPaths",
            json!(["/proc/.."]),
            "linux.readonlyPaths[0]: \"/proc/..\" is the root",
        ),
    ] {
        assert_eq!(load_with(pointer, value).unwrap_err(), error);
    }
}

#[test]
fn resources_are_checked_too() {
    let resources = json!({"memory": {"limit": -2}});
    let error = load_with("/linux/resources", resources).unwrap_err();
    assert!(error.starts_with("linux.resources.memory.limit"), "{error}");
    let error = load_with("/linux/cgroupsPath", json!("/a/../../b")).unwrap_err();
    assert!(error.starts_with("linux.cgroupsPath"), "{error}");
}

#[test]
fn time_offsets_are_of_two_clocks() {
    let mut config = sample();
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "time"}));
    for (offsets, words) in [
        (
            json!({"boottime": {"secs": -1, "nanosecs": 999999999}, "monotonic": {}}),
            None,
        ),
        (json!({"realtime": {"secs": 1}}), Some("isn't a clock")),
        (
            json!({"monotonic": {"nanosecs": 1000000000}}),
            Some("over a second"),
        ),
    ] {
        config["linux"]["timeOffsets"] = offsets;
        let result = load(config.to_string().as_bytes()).map_err(|e| e.to_string());
        match words {
            None => drop(result.unwrap()),
            Some(words) => assert!(result.unwrap_err().contains(words)),
        }
    }
}

#[test]
fn a_name_is_given_once() {
    let mut config = sample();
    config["domainname"] = json!("d");
    for (sysctl, value, problem) in [
        ("kernel.hostname", "x", Some("isn't the hostname, \"runc\"")),
        ("kernel/hostname", "x", Some("isn't the hostname, \"runc\"")),
        (
            "kernel.domainname",
            "x",
            Some("isn't the domainname, \"d\""),
        ),
        ("kernel.hostname", "runc", None),
    ] {
        config["linux"]["sysctl"] = json!({sysctl: value});
        let result = load(config.to_string().as_bytes()).map_err(|e| e.to_string());
        let expected = problem.map(|p| format!("linux.sysctl.{sysctl}: {value:?} {p}"));
        assert_eq!(result.err(), expected);
    }
}

#[test]
fn a_sysctl_needs_the_namespace_that_it_is_of() {
    let mut config = sample();
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    let load = |config: &Value| load(config.to_string().as_bytes());
    load(&config).unwrap();
    config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .retain(|n| n["type"] != "network");
    let error = load(&config).unwrap_err().to_string();
    assert!(error.contains("it needs a net namespace"), "{error}");
}
