//! `nacre features`: reports what this runtime supports (OCI runtime spec, features.md).

use nacre_agent::container::{mount_options, seccomp};
use serde_json::{Value, json};

use crate::{
    cli::Global,
    config::{
        CAPABILITIES, Config, Isolation,
        hypervisor::Hypervisor,
        keys::{
            CPUS, DISK_BANDWIDTH, DISK_OPERATIONS, FILES_BANDWIDTH, FILES_OPERATIONS, HYPERVISOR,
            ISOLATION, MEMORY, NESTED, NETWORK_BANDWIDTH, NETWORK_OPERATIONS, ROOTFS, ROOTFS_DISK,
            ROOTFS_MEMORY,
        },
    },
};

use super::{containers::isolation, error::Error, output::print_json, spec::OCI_VERSION};

pub(super) fn features(global: &Global) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let usable = Hypervisor::usable(&config.vm.qemu());
    print_json(&document(isolation(global)?, &usable))?;
    Ok(0)
}

/// Joins hypervisors' names into an annotation's value, which can only be a string.
fn names(hypervisors: impl Iterator<Item = Hypervisor>) -> String {
    hypervisors
        .map(Hypervisor::name)
        .collect::<Vec<_>>()
        .join(",")
}

/// Describes what containers with this isolation can ask for, whatever the host can do, and the
/// hypervisors with which this host could run a VM.
fn document(isolation: Isolation, usable: &[Hypervisor]) -> Value {
    let on_host = isolation == Isolation::Process;
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": HOOKS,
        "mountOptions": mount_options(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": &CAPABILITIES[..],
            "cgroup": {
                "v1": on_host,
                "v2": true,
                "systemd": on_host,
                "systemdUser": on_host,
                "rdma": true
            },
            "seccomp": seccomp(),
            "apparmor": {"enabled": on_host},
            "selinux": {"enabled": on_host},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": on_host}
        },
        "annotations": {
            "dev.nacre.version": env!("CARGO_PKG_VERSION"),
            "dev.nacre.vm.hypervisors": names(Hypervisor::ALL.into_iter()),
            "dev.nacre.vm.hypervisors.usable": names(usable.iter().copied()),
        },
        "potentiallyUnsafeConfigAnnotations": [
            ISOLATION, HYPERVISOR, CPUS, MEMORY, NESTED, ROOTFS, ROOTFS_DISK, ROOTFS_MEMORY,
            DISK_BANDWIDTH, DISK_OPERATIONS, FILES_BANDWIDTH, FILES_OPERATIONS, NETWORK_BANDWIDTH,
            NETWORK_OPERATIONS
        ]
    })
}

fn seccomp() -> Value {
    let supported = seccomp::FLAGS.iter().filter(|f| seccomp::kernel_has(**f));
    json!({
        "enabled": true,
        "actions": seccomp::ACTIONS,
        "operators": seccomp::OPERATORS,
        "archs": seccomp::ARCHITECTURES,
        "knownFlags": seccomp::FLAGS,
        "supportedFlags": supported.collect::<Vec<_>>(),
    })
}

const HOOKS: &[&str] = &[
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

#[cfg(test)]
mod tests {
    use nacre_agent::container::config;

    use super::*;

    /// Returns whether the default configuration is accepted after `change`.
    fn accepts(change: impl FnOnce(&mut Value)) -> bool {
        let mut spec = super::super::spec::document();
        change(&mut spec);
        config::read(spec.to_string().as_bytes()).is_ok_and(|(_, left_out)| left_out.is_empty())
    }

    #[test]
    fn every_capability_is_taken() {
        let capability = |name: &str| {
            let sets = json!({"bounding": [name]});
            accepts(|spec| spec["process"]["capabilities"] = sets)
        };
        assert!(!capability("CAP_NONSENSE"));
        for name in CAPABILITIES {
            assert!(capability(name), "{name}");
        }
    }

    #[test]
    fn what_filters_may_ask_for_is_as_the_spec_spells_it() {
        let seccomp = seccomp();
        for (list, name) in [
            ("actions", "SCMP_ACT_KILL_PROCESS"),
            ("operators", "SCMP_CMP_MASKED_EQ"),
            ("archs", "SCMP_ARCH_X86_64"),
            ("knownFlags", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
            ("supportedFlags", "SECCOMP_FILTER_FLAG_LOG"),
        ] {
            let list = seccomp[list].as_array().unwrap();
            assert!(list.contains(&json!(name)), "{list:?}");
        }
    }

    #[test]
    fn the_versions_are_the_engines() {
        let version = |version: &str| accepts(|spec| spec["ociVersion"] = json!(version));
        assert!(version("1.0.0") && version(OCI_VERSION));
        assert!(!version("0.9.0") && !version("1.4.0"));
    }

    /// Checks that the document says correctly whether a configuration with the feature is
    /// accepted.
    fn agrees(pointer: &str, change: impl Fn(&mut Value)) {
        let document = document(Isolation::Process, &[]);
        let said = document.pointer(pointer).and_then(Value::as_bool);
        assert_eq!(said, Some(accepts(change)), "{pointer}");
    }

    #[test]
    fn what_is_said_to_be_there_is_taken_and_what_is_said_not_to_be_is_refused() {
        agrees("/linux/seccomp/enabled", |spec| {
            spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        });
        agrees("/linux/apparmor/enabled", |spec| {
            spec["process"]["apparmorProfile"] = json!("x");
        });
        agrees("/linux/selinux/enabled", |spec| {
            spec["process"]["selinuxLabel"] = json!("x");
        });
        agrees("/linux/intelRdt/enabled", |spec| {
            spec["linux"]["intelRdt"] = json!({"closID": "x"});
        });
        agrees("/linux/netDevices/enabled", |spec| {
            spec["linux"]["netDevices"] = json!({"eth0": {}});
        });
        agrees("/linux/cgroup/rdma", |spec| {
            spec["linux"]["resources"]["rdma"] = json!({"mlx5_1": {"hcaHandles": 1}});
        });
        agrees("/linux/mountExtensions/idmap/enabled", |spec| {
            let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
            spec["mounts"] = json!([{
                "destination": "/m", "type": "bind", "source": "/", "options": ["bind"],
                "uidMappings": mapping, "gidMappings": mapping
            }]);
        });
    }

    #[test]
    fn every_namespace_is_taken_and_no_other() {
        let document = document(Isolation::Process, &[]);
        let said = document["linux"]["namespaces"].as_array().unwrap();
        for name in [
            "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
        ] {
            let taken = accepts(|spec| {
                let namespaces = [json!({"type": "mount"}), json!({"type": name})];
                let distinct = if name == "mount" { 1 } else { 2 };
                spec["linux"]["namespaces"] = json!(namespaces[..distinct]);
                spec["linux"]["uidMappings"] = Value::Null;
                spec["hostname"] = Value::Null;
                if name == "user" {
                    let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
                    spec["linux"]["uidMappings"] = mapping.clone();
                    spec["linux"]["gidMappings"] = mapping;
                }
            });
            assert_eq!(said.contains(&json!(name)), taken, "{name}");
        }
    }

    #[test]
    fn every_hook_is_taken() {
        for name in HOOKS {
            let hook = json!({*name: [{"path": "/bin/true"}]});
            assert!(accepts(|spec| spec["hooks"] = hook.clone()), "{name}");
            let relative = json!({*name: [{"path": "true"}]});
            assert!(!accepts(|spec| spec["hooks"] = relative), "{name}");
        }
    }

    #[test]
    fn a_vm_is_said_to_do_less() {
        let vm = document(Isolation::Vm, &[]);
        assert_eq!(vm["hooks"], json!(HOOKS));
        for pointer in [
            "cgroup/v1",
            "apparmor/enabled",
            "selinux/enabled",
            "netDevices/enabled",
        ] {
            let said = vm["linux"].pointer(&format!("/{pointer}"));
            assert_eq!(said, Some(&json!(false)), "{pointer}");
        }
    }
}
