//! The host's CPUs, as a guest numbers them: from 0, as many as its container may use. A list of
//! CPUs that the guest has is kept; a list that names others becomes one of as many of the guest's.

use nacre_agent::container::outside::cpu_ranges;
use oci_spec::runtime::{LinuxResources, Process};

/// Translates a list of the host's CPUs for a guest with this many. What isn't a list is left to
/// the engine, which refuses it by its field's name.
fn translate(list: &str, vcpus: u32) -> String {
    let Some(ranges) = cpu_ranges(list) else {
        return list.into();
    };
    if ranges.iter().all(|(_, last)| *last < vcpus) {
        return list.into();
    }
    let named = ranges
        .iter()
        .map(|(first, last)| u64::from(last - first) + 1)
        .fold(0, u64::saturating_add);
    let last = named.min(u64::from(vcpus)).saturating_sub(1);
    format!("0-{last}")
}

/// Translates a cpuset. The guest has a single memory node.
pub(in crate::isolation::vm) fn translate_cpuset(resources: &mut LinuxResources, vcpus: u32) {
    let Some(mut cpu) = resources.cpu().clone() else {
        return;
    };
    cpu.set_cpus(cpu.cpus().as_deref().map(|list| translate(list, vcpus)));
    if cpu.mems().is_some() {
        cpu.set_mems(Some("0".into()));
    }
    resources.set_cpu(Some(cpu));
}

/// Translates `process.execCPUAffinity`.
pub(in crate::isolation::vm) fn translate_affinity(process: &mut Process, vcpus: u32) {
    let Some(mut affinity) = process.exec_cpu_affinity().clone() else {
        return;
    };
    let translated = |list: &Option<String>| list.as_deref().map(|list| translate(list, vcpus));
    affinity.set_initial(translated(affinity.initial()));
    affinity.set_cpu_affinity_final(translated(affinity.cpu_affinity_final()));
    process.set_exec_cpu_affinity(Some(affinity));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Lists, how many CPUs the guest has, and what it gets.
    const LISTS: [(&str, u32, &str); 7] = [
        ("0-1", 2, "0-1"),
        ("1", 2, "1"),
        ("2-3", 2, "0-1"),
        ("7", 1, "0-0"),
        ("0-63", 4, "0-3"),
        ("2,6", 4, "0-1"),
        ("0-4294967295,0-4294967295", 3, "0-2"),
    ];

    #[test]
    fn a_cpuset_names_cpus_that_the_guest_has() {
        for (cpus, vcpus, expected) in LISTS {
            let resources = json!({"cpu": {"cpus": cpus, "mems": "1"}});
            let mut resources = serde_json::from_value(resources).unwrap();
            translate_cpuset(&mut resources, vcpus);
            let cpu = serde_json::to_value(resources).unwrap()["cpu"].clone();
            assert_eq!(cpu["cpus"], expected, "{cpus:?} of {vcpus}");
            assert_eq!(cpu["mems"], "0");
        }
    }

    #[test]
    fn so_does_an_affinity() {
        let process = |affinity| {
            let process = json!({
                "args": ["x"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                "execCPUAffinity": affinity,
            });
            serde_json::from_value::<Process>(process).unwrap()
        };
        for (cpus, vcpus, expected) in LISTS {
            for name in ["initial", "final"] {
                let mut translated = process(json!({ name: cpus }));
                translate_affinity(&mut translated, vcpus);
                assert_eq!(translated, process(json!({ name: expected })));
            }
        }
    }
}
