//! Values of a configuration that are left out with a warning in the log, instead of an error: as
//! the runtime spec, or what callers are used to, demands.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capability, LinuxResources, Process, Spec};
use serde::Deserialize;
use serde_json::Value;

use super::capabilities::ProcessCapabilities;
use super::mounts::Mount;

/// The sets of `process.capabilities`.
const SETS: [&str; 5] = [
    "bounding",
    "effective",
    "inheritable",
    "permitted",
    "ambient",
];

/// Returns a line for the log for each field of which something is left out.
pub(super) fn from_spec(spec: &Spec) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if let Ok(mount) = Mount::parse(index, mount)
            && let Some(options) = mount.without_effect()
        {
            lines.push(format!(
                "mounts[{index}].options: {options} without effect on a bind mount"
            ));
        }
    }
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    if let Some(line) = resources.and_then(from_resources) {
        lines.push(line.to_owned());
    }
    if let Some(process) = spec.process() {
        lines.extend(from_process(process));
    }
    lines
}

/// Returns a line for the log if something in `linux.resources` is left out.
pub fn from_resources(resources: &LinuxResources) -> Option<&'static str> {
    let kernel = resources.memory().as_ref()?.kernel()?;
    (kernel > 0).then_some(
        "linux.resources.memory.kernel: left out, as Linux has had no such limit since 5.16",
    )
}

/// As [`of`], for a process alone.
pub(super) fn from_process(process: &Process) -> Option<String> {
    let sets = process.capabilities().as_ref();
    let names = ProcessCapabilities::ambient_without_base(sets)?;
    Some(format!(
        "process.capabilities.ambient: {names} left out, as only what is permitted and \
         inheritable can be ambient"
    ))
}

/// Removes unknown capabilities from `process`, and returns a line that says so; `None` if there
/// are none.
pub(super) fn unknown_capabilities(process: &mut Value) -> Option<String> {
    let sets = process.get_mut("capabilities")?;
    let mut unknown = BTreeSet::new();
    for name in SETS {
        let Some(set) = sets.get_mut(name).and_then(Value::as_array_mut) else {
            continue;
        };
        set.retain(|capability| {
            let is_unknown = capability.is_string() && Capability::deserialize(capability).is_err();
            if is_unknown {
                unknown.insert(capability.to_string());
            }
            !is_unknown
        });
    }
    if unknown.is_empty() {
        return None;
    }
    let names: Vec<String> = unknown.into_iter().collect();
    Some(format!(
        "process.capabilities: {} left out, as no capability of that name is known",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::load::tests::sample;
    use super::super::load::{read, read_process};
    use super::*;

    fn left_out(config: &Value) -> Vec<String> {
        read(config.to_string().as_bytes()).unwrap().1
    }

    #[test]
    fn capabilities_that_are_not_known_are() {
        let mut config = sample();
        let sets = &mut config["process"]["capabilities"];
        *sets = json!({
            "bounding": ["CAP_KILL", "CAP_FLY"],
            "effective": ["CAP_DIVE", "CAP_KILL"],
            "permitted": ["CAP_KILL", "CAP_FLY"],
        });
        let line = "process.capabilities: \"CAP_DIVE\", \"CAP_FLY\" left out, as no capability \
                    of that name is known";
        let json = config.to_string();
        let (spec, lines) = read(json.as_bytes()).unwrap();
        assert_eq!(lines, [line]);
        let process = config["process"].to_string();
        let (process, lines) = read_process(process.as_bytes()).unwrap();
        assert_eq!(lines, [line]);
        assert_eq!(spec.process().as_ref(), Some(&process));
        let sets = serde_json::to_value(process.capabilities()).unwrap();
        assert_eq!(sets["bounding"], json!(["CAP_KILL"]));
    }

    #[test]
    fn ambient_ones_that_the_kernel_would_not_have_are() {
        let mut config = sample();
        config["process"]["capabilities"] = json!({
            "permitted": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL"],
            "ambient": ["CAP_KILL", "CAP_CHOWN"],
        });
        let line = "process.capabilities.ambient: CAP_CHOWN left out, as only what is permitted \
                    and inheritable can be ambient";
        assert_eq!(left_out(&config), [line]);
    }

    #[test]
    fn a_limit_on_the_kernels_memory_is() {
        let mut config = sample();
        config["process"]["capabilities"] = Value::Null;
        config["linux"]["resources"] = json!({"memory": {"kernel": 0}});
        assert!(left_out(&config).is_empty());
        config["linux"]["resources"] = json!({"memory": {"kernel": 1 << 20}});
        let line = "linux.resources.memory.kernel: left out, as Linux has had no such limit since \
                    5.16";
        assert_eq!(left_out(&config), [line]);
    }

    #[test]
    fn options_of_file_systems_are_on_bind_mounts() {
        let mut config = sample();
        config["mounts"] = json!([
            {"destination": "/a", "type": "tmpfs", "options": ["mode=755"]},
            {"destination": "/b", "type": "bind", "source": "/b",
             "options": ["rbind", "mode=755,ro", "sync", "tmpcopyup"]},
        ]);
        config["process"]["capabilities"] = Value::Null;
        let line = "mounts[1].options: mode, sync, tmpcopyup without effect on a bind mount";
        assert_eq!(left_out(&config), [line]);
    }
}
