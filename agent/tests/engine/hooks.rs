//! The `hooks` that are part of a container's creation and start.

use std::fs;

use serde_json::{Value, json};

use crate::Skipped;
use crate::bundle::{Bundle, leak, text};

tests![
    each_is_in_its_namespaces,
    cve_2024_21626_one_in_the_container_gets_no_descriptor_of_the_callers,
];

fn shell(script: &str) -> Value {
    json!({"path": "/bin/busybox", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

/// Makes a bundle with these hooks, one of each kind.
fn bundle<const N: usize>(hooks: [(&str, String); N]) -> Bundle {
    let mut bundle = Bundle::new("echo workload >> /log");
    for (kind, script) in hooks {
        bundle.config["hooks"][kind] = json!([shell(&script)]);
    }
    bundle
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
        // The caller's files are visible in both, the container's mounts in one.
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
    // The last one is the descriptor of the directory being listed.
    assert_eq!(inside, "0\n1\n2\n3\n");
    Ok(())
}
