//! Namespaces, and the settings in them.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Skipped;
use crate::bundle::Bundle;

tests![
    new_ones_are_new,
    those_not_asked_for_are_the_callers,
    others_can_be_joined,
    a_path_that_is_no_namespace_is_named,
    a_cgroup_namespace_begins_at_the_containers_cgroup,
    a_sysctl_that_cannot_be_set_is_named,
    nothing_is_set_in_the_hosts_namespaces,
    clocks_are_set_off,
];

const LIST: &str = "for n in pid net ipc uts mnt cgroup; do readlink /proc/self/ns/$n; done";

fn own(kind: &str) -> String {
    let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    link.to_str().unwrap().to_owned()
}

fn new_ones_are_new() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(LIST);
    bundle.namespace(json!({"type": "cgroup"}));
    let output = bundle.output();
    assert_eq!(output.lines().count(), 6);
    for (line, kind) in output
        .lines()
        .zip(["pid", "net", "ipc", "uts", "mnt", "cgroup"])
    {
        assert!(line.starts_with(kind), "{line}");
        assert_ne!(line, own(kind));
    }
    Ok(())
}

fn those_not_asked_for_are_the_callers() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(LIST);
    bundle.config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    bundle.config["hostname"] = json!("");
    let output = bundle.output();
    let lines: Vec<&str> = output.lines().collect();
    for (line, kind) in lines
        .iter()
        .zip(["pid", "net", "ipc", "uts", "mnt", "cgroup"])
    {
        assert_eq!(**line == own(kind), kind != "mnt", "{line}");
    }
    Ok(())
}

fn others_can_be_joined() -> Result<(), Skipped> {
    let mut host = Bundle::new(&format!("{LIST}; hostname; echo ready; sleep 60"));
    host.config["hostname"] = json!("joined");
    let mut running = host.start();
    running.wait_for("ready");
    let pid = running.container().pid();
    let before: Vec<String> = ["pid", "pid_for_children", "net", "ipc", "uts"]
        .map(own)
        .into();

    let mut guest = Bundle::new(&format!("{LIST}; hostname"));
    guest.config["hostname"] = json!("");
    for (kind, file) in [
        ("pid", "pid"),
        ("network", "net"),
        ("ipc", "ipc"),
        ("uts", "uts"),
    ] {
        guest.namespace(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
    }
    let output = guest.output();
    let theirs = running.stdout();
    for (mine, theirs) in output.lines().zip(theirs.lines()) {
        let private = mine.starts_with("mnt:");
        assert_eq!(mine == theirs, !private, "{mine} {theirs}");
    }
    assert!(output.ends_with("joined\n"), "{output}");

    // The engine itself and its children are in the same namespaces as before.
    let after: Vec<String> = ["pid", "pid_for_children", "net", "ipc", "uts"]
        .map(own)
        .into();
    assert_eq!(before, after);
    assert_eq!(Bundle::new("echo $$").output(), "1\n");
    Ok(())
}

fn a_path_that_is_no_namespace_is_named() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    bundle.namespace(json!({"type": "network", "path": "/no/such"}));
    let (message, _) = bundle.error();
    let expected = "can't join the net namespace of /no/such: No such file or directory";
    assert!(message.starts_with(expected), "{message}");
    bundle.namespace(json!({"type": "network", "path": "/proc/self/ns/uts"}));
    let (message, _) = bundle.error();
    let expected = "can't join the net namespace of /proc/self/ns/uts: Invalid argument";
    assert!(message.starts_with(expected), "{message}");
    bundle.namespace(json!({"type": "pid", "path": "/etc/passwd"}));
    let (message, _) = bundle.error();
    assert!(
        message.contains("pid namespace of /etc/passwd: Invalid argument"),
        "{message}"
    );
    Ok(())
}

fn a_cgroup_namespace_begins_at_the_containers_cgroup() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("grep ^0:: /proc/self/cgroup");
    let seen = bundle.output();
    assert!(seen.contains("nacre-test"), "{seen}");
    bundle.namespace(json!({"type": "cgroup"}));
    assert_eq!(bundle.output(), "0::/\n");
    Ok(())
}

fn a_sysctl_that_cannot_be_set_is_named() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("true");
    for (name, value, words) in [
        (
            "net.no.such",
            "1",
            "can't set linux.sysctl net.no.such to \"1\": No such file",
        ),
        (
            "kernel.msgmax",
            "x",
            "can't set linux.sysctl kernel.msgmax to \"x\": Invalid argument",
        ),
    ] {
        bundle.config["linux"]["sysctl"] = json!({name: value});
        let (message, _) = bundle.error();
        assert!(message.starts_with(words), "{message}");
    }
    Ok(())
}

/// The host's namespaces, joined by any path. If it were allowed, the host's parameters would be
/// set, and would have other values than before.
fn nothing_is_set_in_the_hosts_namespaces() -> Result<(), Skipped> {
    let file = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap();
    let mut bundle = Bundle::new("true");
    let link = bundle.beside("link");
    // Not everybody may inspect the first process.
    let seen = |process: &&str| fs::File::open(format!("/proc/{process}/ns/net")).is_ok();
    for process in ["self", "1"].into_iter().filter(seen) {
        for (kind, namespace, name, value) in [
            ("network", "net", "net.ipv4.ip_default_ttl", "65"),
            ("ipc", "ipc", "kernel.msgmax", "65536"),
            ("ipc", "ipc", "fs.mqueue.msg_max", "17"),
            ("uts", "uts", "kernel.hostname", "another"),
            ("uts", "uts", "kernel.domainname", "another"),
        ] {
            let before = file(&name.replace('.', "/"));
            let path = format!("/proc/{process}/ns/{namespace}");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&path, &link).unwrap();
            for path in [Path::new(&path), &link] {
                bundle.config["hostname"] = json!("");
                bundle.config["linux"]["sysctl"] = json!({name: value});
                bundle.namespace(json!({"type": kind, "path": path}));
                let (message, _) = bundle.error();
                let expected =
                    format!("linux.sysctl.{name}: it isn't allowed in the host's {namespace}");
                assert!(message.starts_with(&expected), "{message}");
            }
            bundle.namespace(json!({"type": kind}));
            assert_eq!(file(&name.replace('.', "/")), before);
        }
        for name in ["hostname", "domainname"] {
            let before = file(&format!("kernel/{name}"));
            let mut bundle = Bundle::new("true");
            bundle.config["hostname"] = json!("");
            bundle.config[name] = json!("another");
            bundle.namespace(json!({"type": "uts", "path": format!("/proc/{process}/ns/uts")}));
            let (message, _) = bundle.error();
            let expected = format!("{name}: it isn't allowed in the host's uts namespace");
            assert!(message.starts_with(&expected), "{message}");
            assert_eq!(file(&format!("kernel/{name}")), before);
        }
    }
    Ok(())
}

fn clocks_are_set_off() -> Result<(), Skipped> {
    if !Path::new("/proc/self/ns/time").exists() {
        return Err(Skipped("the kernel has no time namespaces"));
    }
    let before = ["time", "time_for_children"].map(own);
    let mut bundle = Bundle::new("cat /proc/uptime; readlink /proc/self/ns/time");
    bundle.namespace(json!({"type": "time"}));
    bundle.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
    let output = bundle.output();
    let uptime: f64 = output.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1e9, "{output}");
    assert!(!output.ends_with(&format!("{}\n", before[0])), "{output}");
    assert_eq!(["time", "time_for_children"].map(own), before);
    // These offsets would make the clock start before boot.
    bundle.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": -1_000_000_000}});
    let (message, _) = bundle.error();
    assert!(
        message.starts_with("can't set linux.timeOffsets: "),
        "{message}"
    );
    assert_eq!(["time", "time_for_children"].map(own), before);
    Ok(())
}
