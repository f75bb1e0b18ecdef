//! The container's cgroup.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio, wait_for_exit};

tests![
    the_container_sees_its_own_cgroup_only,
    version_1_looks_as_with_runc,
    a_memory_limit_kills_and_is_seen_to,
    a_limit_too_low_for_the_init_is_told,
];

/// Skips the test unless this host has a controller, in either version.
fn controller(name: &str) -> Result<(), Skipped> {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let v1 = Path::new("/sys/fs/cgroup").join(name).join("tasks");
    if v1.exists() || v2.split_whitespace().any(|c| c == name) {
        Ok(())
    } else {
        Err(Skipped("the host lacks the controller"))
    }
}

/// Returns whether this host has hierarchies of version 1.
fn has_v1() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn the_container_sees_its_own_cgroup_only() -> Result<(), Skipped> {
    let mut bundle = Bundle::new(
        "cd /sys/fs/cgroup; [ -e cgroup.procs ] || cd pids
         cat cgroup.procs; mkdir x; [ -e cgroup.events ] || mkdir ../x",
    );
    for namespace in [false, true] {
        if namespace {
            bundle.namespace(json!({"type": "cgroup"}));
        }
        let outcome = bundle.run();
        assert!(outcome.stdout.starts_with("1\n"), "{outcome:?}");
        let refused = outcome.stderr.matches("Read-only file system").count();
        assert_eq!(refused, 1 + usize::from(has_v1()), "{outcome:?}");
    }
    Ok(())
}

fn version_1_looks_as_with_runc() -> Result<(), Skipped> {
    if !has_v1() {
        return Err(Skipped("the host has only cgroup v2"));
    }
    let mut bundle = Bundle::new(
        "grep ' - cgroup ' /proc/self/mountinfo; grep -v ^0: /proc/self/cgroup; ls /sys/fs/cgroup",
    );
    for namespace in [false, true] {
        if namespace {
            bundle.namespace(json!({"type": "cgroup"}));
        }
        let seen = bundle.output();
        let mounts: Vec<_> = seen.lines().filter(|line| line.contains(" - ")).collect();
        let own: Vec<_> = seen.lines().filter(|line| line.contains(":/")).collect();
        assert_eq!(mounts.len(), own.len(), "{seen}");
        for line in own {
            let (controllers, path) = line.split_once(':').unwrap().1.split_once(':').unwrap();
            assert_eq!(path == "/", namespace, "{seen}");
            let name = controllers.trim_start_matches("name=");
            let mount = format!(" {path} /sys/fs/cgroup/{name} ro,nosuid,nodev,noexec,relatime");
            assert!(mounts.iter().any(|line| line.contains(&mount)), "{seen}");
            assert!(seen.lines().any(|line| line == name), "{seen}");
        }
    }
    Ok(())
}

fn a_memory_limit_kills_and_is_seen_to() -> Result<(), Skipped> {
    controller("memory")?;
    let mut bundle = Bundle::new("");
    bundle.config["process"]["args"] =
        json!(["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    let mut container = bundle.create(null_stdio()).unwrap();
    assert!(!container.oom_killed());
    container.start().unwrap();
    assert_eq!(wait_for_exit(&container), 137);
    assert!(container.oom_killed());
    container.destroy().unwrap();
    Ok(())
}

fn a_limit_too_low_for_the_init_is_told() -> Result<(), Skipped> {
    controller("memory")?;
    let mut bundle = Bundle::new("true");
    bundle.config["linux"]["resources"]["memory"] = json!({"limit": 4096, "swap": 4096});
    let (message, _) = bundle.error();
    assert!(message.contains("OOM-killed"), "{message}");
    Ok(())
}
