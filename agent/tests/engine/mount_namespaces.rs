//! Mount namespaces that are joined, and containers without one.

use std::fs;

use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, text};
use crate::exec;

tests![
    a_mount_namespace_is_joined,
    without_a_mount_namespace_the_root_is_a_directory,
    what_needs_a_mount_namespace_is_refused_without,
];

/// Makes a container that uses a directory as it is.
fn without_mounts(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.config["mounts"] = json!([]);
    let linux = bundle.config["linux"].as_object_mut().unwrap();
    linux.remove("maskedPaths");
    linux.remove("readonlyPaths");
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "mount");
    bundle
}

fn a_mount_namespace_is_joined() -> Result<(), Skipped> {
    let mut host = Bundle::new("mkdir /below && ls /; echo .; sleep 60");
    host.mount(json!({"destination": "/seen", "type": "tmpfs", "source": "t"}));
    let mut running = host.start();
    running.wait_for(".\n");
    let pid = running.container().pid();
    let mut guest = without_mounts("ls /; readlink /proc/self/ns/mnt; pwd");
    guest.namespace(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
    guest.namespace(json!({"type": "mount", "path": format!("/proc/{pid}/ns/mnt")}));
    // The path is resolved in that namespace.
    guest.config["root"]["path"] = json!("/");
    guest.config["process"]["cwd"] = json!("/below");
    let output = guest.output();
    assert!(
        output.starts_with(running.stdout().trim_end_matches(".\n")),
        "{output}"
    );
    let link = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert!(output.contains(text(&link)), "{output}");
    assert!(output.ends_with("/below\n"), "{output}");
    guest.config["root"]["path"] = json!("/not/there");
    let (message, _) = guest.error();
    assert!(
        message.contains("open root.path /not/there: No such"),
        "{message}"
    );
    Ok(())
}

fn without_a_mount_namespace_the_root_is_a_directory() -> Result<(), Skipped> {
    let mut bundle = without_mounts("ls -a /; pwd; echo .; sleep 60");
    bundle.config["process"]["cwd"] = json!("/new");
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut running = bundle.start();
    running.wait_for("/new\n.\n");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
    assert!(
        running.stdout().starts_with(".\n..\nbin\nnew\n/new\n"),
        "{}",
        running.stdout()
    );
    // A process that is started later has that root too.
    let seen = exec::output(&bundle, &mut running, "ls -a /; pwd; echo .");
    assert_eq!(seen, running.stdout());
    // It can't escape from it: that takes the right to change the root again.
    let out = exec::output(&bundle, &mut running, "cd ../../..; pwd; ls -d /bin/sh");
    assert_eq!(out, "/\n/bin/sh\n");
    Ok(())
}

fn what_needs_a_mount_namespace_is_refused_without() -> Result<(), Skipped> {
    for (pointer, value) in [
        (
            "/mounts",
            json!([{"destination": "/proc", "type": "proc", "source": "proc"}]),
        ),
        ("/root/readonly", json!(true)),
        ("/linux/maskedPaths", json!(["/proc/kcore"])),
        ("/linux/readonlyPaths", json!(["/proc/sys"])),
        ("/linux/rootfsPropagation", json!("shared")),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]),
        ),
    ] {
        let mut bundle = without_mounts("true");
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        bundle.config.pointer_mut(parent).unwrap()[name] = value;
        let field = pointer[1..].replace('/', ".");
        assert_eq!(
            bundle.error().0,
            format!("{field}: it needs a new mount namespace, which the container lacks")
        );
    }
    Ok(())
}
