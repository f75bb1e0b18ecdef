//! `linux.memoryPolicy`: of which NUMA nodes the container's memory is
//! ([set_mempolicy(2)](https://man7.org/linux/man-pages/man2/set_mempolicy.2.html)).

use nix::errno::Errno;
use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType};

use super::affinity::bits;
use super::cgroups::number_list;
use super::config::ConfigError;

/// As the kernel takes it.
#[derive(Debug, PartialEq, Eq)]
struct Policy {
    mode: i32,
    nodes: Vec<u64>,
}

fn parse(policy: &LinuxMemoryPolicy) -> Result<Policy, ConfigError> {
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
    let Some(numbers) = number_list(nodes) else {
        return invalid(format!("{nodes:?} isn't a list of nodes, like 0-2,4"));
    };
    if !takes_nodes && !numbers.is_empty() {
        return invalid(format!("{mode} takes none"));
    }
    // The other one without nodes means the nearest.
    if takes_nodes && numbers.is_empty() && mode != MemoryPolicyModeType::MpolPreferred {
        return invalid(format!("{mode} needs some"));
    }
    Ok(Policy {
        mode: number | flags,
        nodes: bits(numbers),
    })
}

fn bit(flag: MemoryPolicyFlagType) -> i32 {
    match flag {
        MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
        MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
    }
}

/// Checks what needs no kernel.
pub(super) fn validate(policy: &LinuxMemoryPolicy) -> Result<(), ConfigError> {
    parse(policy).map(drop)
}

/// Sets it for this process, and what comes of it.
pub(super) fn set(policy: &LinuxMemoryPolicy) -> nix::Result<()> {
    let Policy { mode, nodes } = parse(policy).map_err(|_| Errno::EINVAL)?;
    // The kernel looks at one bit less than it is told of.
    let count = match nodes.len() {
        0 => 0,
        words => words * 64 + 1,
    };
    // SAFETY: there are as many bits behind the pointer as the kernel looks at, none if it is
    // told of none.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, nodes.as_ptr(), count) };
    Errno::result(result).map(drop)
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
                .map(|(mode, nodes)| Policy { mode, nodes })
                .map_err(|words| format!("linux.memoryPolicy.nodes: {words}"));
            assert_eq!(found, expected, "{json}");
        }
    }
}
