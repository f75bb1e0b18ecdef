//! Who enforces what of a configuration, in each mode.

use serde_json::Value;

use super::report::Enforced;

const HOST: &str = "the host's kernel";
const GUEST: &str = "the guest's kernel";
const BOTH: &str = "the guest's kernel, and the host's for the whole VM";
const GUEST_AND_FILES: &str = "the guest's kernel, and the file server for files of the host";
const NO_DEVICE: &str = "the guest's kernel, and the host has none of its devices in the guest";
const NOBODY: &str = "nobody: an engine's own is left out, any other refused";

/// What a configuration may ask for: where, in what words, and who enforces it in a VM. In process
/// mode the host's kernel enforces everything.
const FIELDS: &[(&str, &str, &str)] = &[
    ("/root/readonly", "read-only root", GUEST_AND_FILES),
    ("/mounts", "mounts and their flags", GUEST_AND_FILES),
    ("/process/user", "user and groups", GUEST_AND_FILES),
    ("/process/capabilities", "capabilities", GUEST_AND_FILES),
    ("/process/noNewPrivileges", "no new privileges", GUEST),
    ("/process/rlimits", "limits of a process", GUEST),
    ("/process/apparmorProfile", "AppArmor profile", NOBODY),
    ("/process/selinuxLabel", "SELinux label", NOBODY),
    ("/linux/seccomp", "seccomp profile", GUEST),
    ("/linux/namespaces", "namespaces", GUEST),
    ("/linux/maskedPaths", "masked paths", GUEST),
    ("/linux/readonlyPaths", "read-only paths", GUEST),
    ("/linux/devices", "devices", NO_DEVICE),
    ("/linux/resources/devices", "rules for devices", GUEST),
    ("/linux/resources/memory", "memory limit", BOTH),
    ("/linux/resources/cpu", "CPU limits", BOTH),
    ("/linux/resources/pids", "limit of processes", BOTH),
    ("/linux/resources/blockIO", "limits of block I/O", BOTH),
    ("/linux/sysctl", "kernel parameters", GUEST),
];

/// Lists what this configuration asks for.
pub(super) fn enforced(config: &Value) -> Vec<Enforced> {
    let is_asked = |pointer: &str| match config.pointer(pointer) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::Object(members)) => !members.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    };
    let asked = FIELDS.iter().filter(|(pointer, ..)| is_asked(pointer));
    let enforced = asked.map(|(pointer, what, in_vm)| Enforced {
        field: pointer.trim_start_matches('/').replace('/', "."),
        what,
        process: HOST,
        vm: in_vm,
    });
    enforced.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_asked_for_is_listed() {
        let config = json!({
            "root": { "readonly": false },
            "process": { "noNewPrivileges": true, "rlimits": [], "user": { "uid": 0 } },
            "linux": { "resources": { "pids": { "limit": 5 } } },
        });
        let fields: Vec<_> = enforced(&config).into_iter().map(|it| it.field).collect();
        let expected = [
            "process.user",
            "process.noNewPrivileges",
            "linux.resources.pids",
        ];
        assert_eq!(fields, expected);
    }
}
