//! Parses `linux.memoryPolicy`.

use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType};

use super::error::ConfigError;
use crate::container::kernel::cpu_list;

/// A policy as the kernel takes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemoryPolicy {
    pub(crate) mode: i32,
    pub(crate) nodes: Vec<u64>,
}

/// Parses it.
pub(crate) fn parse(policy: &LinuxMemoryPolicy) -> Result<MemoryPolicy, ConfigError> {
    let invalid = |problem: String| Err(ConfigError::invalid("linux.memoryPolicy.nodes", problem));
    let mode = policy.mode();
    // As in linux/mempolicy.h.
    let (number, takes_nodes) = match mode {
        MemoryPolicyModeType::MpolDefault => (0, false),
        MemoryPolicyModeType::MpolPreferred => (1, true),
        MemoryPolicyModeType::MpolBind => (2, true),
        MemoryPolicyModeType::MpolInterleave => (3, true),
        MemoryPolicyModeType::MpolLocal => (4, false),
        MemoryPolicyModeType::MpolPreferredMany => (5, true),
        MemoryPolicyModeType::MpolWeightedInterleave => (6, true),
    };
    let flags = policy
        .flags()
        .iter()
        .flatten()
        .fold(0, |flags, flag| flags | bit(*flag));
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    let Some(numbers) = cpu_list::parse(nodes) else {
        return invalid(format!("{nodes:?} isn't a list of nodes, like 0-2,4"));
    };
    if !takes_nodes && !numbers.is_empty() {
        return invalid(format!("{mode} takes none"));
    }
    // Without nodes, `MPOL_PREFERRED` means the nearest one.
    if takes_nodes && numbers.is_empty() && mode != MemoryPolicyModeType::MpolPreferred {
        return invalid(format!("{mode} needs some"));
    }
    Ok(MemoryPolicy {
        mode: number | flags,
        nodes: cpu_list::bits(numbers),
    })
}

fn bit(flag: MemoryPolicyFlagType) -> i32 {
    match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_are_the_kernels() {
        for (json, expected) in [
            (json!({"mode": "MPOL_DEFAULT"}), Ok((0, vec![]))),
            (json!({"mode": "MPOL_PREFERRED"}), Ok((1, vec![]))),
            (
                json!({"mode": "MPOL_BIND", "nodes": "0,64", "flags": ["MPOL_F_STATIC_NODES"]}),
                Ok((0x8002, vec![1, 1])),
            ),
            (json!({"mode": "MPOL_BIND"}), Err("MPOL_BIND needs some")),
            (
                json!({"mode": "MPOL_LOCAL", "nodes": "0"}),
                Err("MPOL_LOCAL takes none"),
            ),
            (
                json!({"mode": "MPOL_INTERLEAVE", "nodes": "a"}),
                Err("\"a\" isn't a list of nodes, like 0-2,4"),
            ),
        ] {
            let policy = serde_json::from_value(json.clone()).unwrap();
            let found = parse(&policy).map_err(|e| e.to_string());
            let expected = expected
                .map(|(mode, nodes)| MemoryPolicy { mode, nodes })
                .map_err(|words| format!("linux.memoryPolicy.nodes: {words}"));
            assert_eq!(found, expected, "{json}");
        }
    }
}
