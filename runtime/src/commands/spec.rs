//! `nacre spec`: writes a `config.json` to start from.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
};

use nix::unistd::{getegid, geteuid};
use serde_json::{Value, json};

use crate::cli::Spec;

use super::error::Error;

/// The newest version of the OCI runtime spec that nacre knows.
pub(super) const OCI_VERSION: &str = "1.3.0";

pub(super) fn spec(arguments: &Spec) -> Result<u8, Error> {
    let mut document = document();
    if arguments.rootless {
        make_rootless(&mut document);
    }
    write(&arguments.bundle.join("config.json"), &document)?;
    Ok(0)
}

fn write(path: &Path, document: &Value) -> Result<(), Error> {
    let write = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)?
            .write_all(format!("{document:#}\n").as_bytes())
    };
    write().map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::SpecExists { path: path.into() },
        _ => Error::Write {
            path: path.into(),
            source,
        },
    })
}

/// Changes the document for a user without privileges: a user namespace in which the user is root,
/// the host's network, a /sys that can be mounted there, no groups that the user lacks, and no
/// limits.
fn make_rootless(document: &mut Value) {
    let mapping = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
    let linux = &mut document["linux"];
    linux["uidMappings"] = mapping(geteuid().as_raw());
    linux["gidMappings"] = mapping(getegid().as_raw());
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
    }
    for mount in document["mounts"].as_array_mut().into_iter().flatten() {
        match mount["destination"].as_str() {
            Some("/sys") => {
                mount["type"] = json!("none");
                mount["source"] = json!("/sys");
                mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
            }
            Some("/dev/pts") => {
                if let Some(options) = mount["options"].as_array_mut() {
                    options.retain(|option| option != "gid=5");
                }
            }
            _ => {}
        }
    }
}

/// Returns the configuration of a shell, with the mounts, capabilities and limits of runc's
/// default.
pub(super) fn document() -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "process": shell(),
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "nacre",
        "mounts": mounts(),
        "linux": linux(),
    })
}

fn shell() -> Value {
    let capabilities = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    json!({
        "terminal": true,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": [
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TERM=xterm"
        ],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": true
    })
}

fn mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]
        },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": [
                "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
            ]
        },
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        },
        {
            "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]
        },
        {
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"]
        },
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
        }
    ])
}

fn linux() -> Value {
    json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "namespaces": [
            {"type": "pid"},
            {"type": "network"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            {"type": "cgroup"}
        ],
        "maskedPaths": [
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/sys/firmware",
            "/proc/scsi"
        ],
        "readonlyPaths": [
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger"
        ]
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_version_of_the_spec_is_the_newest_known() {
        let version = Cli::command().render_version();
        assert!(
            version
                .trim_end()
                .ends_with(&format!("\nspec: {OCI_VERSION}"))
        );
    }

    #[test]
    fn what_is_written_can_be_run() {
        let document = document().to_string();
        nacre_agent::container::config::load(document.as_bytes()).unwrap();
    }

    #[test]
    fn without_privileges_nothing_is_asked_for_that_needs_some() {
        let mut document = document();
        make_rootless(&mut document);
        let linux = &document["linux"];
        assert!(linux.get("resources").is_none());
        assert_eq!(linux["uidMappings"][0]["hostID"], geteuid().as_raw());
        let namespaces = linux["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({"type": "user"})));
        assert!(!namespaces.contains(&json!({"type": "network"})));
        assert!(!document.to_string().contains("gid=5"));
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        write(&path, &document()).unwrap();
        let again = write(&path, &document());
        assert!(matches!(again, Err(Error::SpecExists { .. })));
    }
}
