//! The container in its cgroup.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio, wait_for_exit};

tests![
    the_container_sees_its_own_cgroup_only,
    a_memory_limit_kills_and_is_seen_to,
    a_limit_too_low_for_the_init_is_told,
    a_pids_limit_holds,
];

/// Whether this host has a controller, in either version.
fn controller(name: &str) -> Result<(), Skipped> {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let v1 = Path::new("/sys/fs/cgroup").join(name).join("tasks");
    match v1.exists() || v2.split_whitespace().any(|c| c == name) {
        true => Ok(()),
        false => Err(Skipped("the host lacks the controller")),
    }
}

fn the_container_sees_its_own_cgroup_only() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x");
    let outcome = bundle.run();
    assert!(outcome.stdout.starts_with("1\n"), "{outcome:?}");
    assert!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    bundle.namespace(json!({"type": "cgroup"}));
    let outcome = bundle.run();
    assert!(outcome.stdout.starts_with("1\n"), "{outcome:?}");
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

fn a_pids_limit_holds() -> Result<(), Skipped> {
    controller("pids")?;
    let mut bundle = Bundle::new("for i in 1 2 3 4 5 6; do sleep 5 & done");
    bundle.config["linux"]["resources"]["pids"] = json!({"limit": 3});
    let outcome = bundle.run();
    assert!(outcome.stderr.contains("fork"), "{outcome:?}");
    Ok(())
}
