//! Decides how large a container's VM is. This is the one place that does.
//!
//! *vCPUs*: the annotation `dev.nacre.vm.cpus`; else the container's CPU limits, that is, its quota
//! over its period rounded up, or the number of CPUs in its cpuset, or the smaller of both; else
//! `vm.cpus` of the configuration file; else 1. CPU shares aren't considered.
//!
//! *Memory*: the annotation `dev.nacre.vm.memory`; else the container's memory limit and room
//! for the guest's kernel and agent ([`overhead`]), so that the container meets its own limit
//! before the guest runs out; else `vm.memory` of the configuration file; else 256 MiB. It is
//! rounded up to a multiple of 2 MiB.
//!
//! A size requested by annotation or in the configuration file must lie between what can boot and
//! what the host has. A container's limit is a ceiling rather than a request, so a limit above what
//! the host has is lowered to that.

use nacre_agent::container::outside::cpu_ranges;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::{
    annotations::Annotations,
    bytes::Bytes,
    cpu_list::count,
    file::VmSettings,
    keys::{CPUS, MEMORY},
};

const MIB: u64 = 1 << 20;

/// The unit of guest memory: a huge page.
const GRANULE: u64 = 2 * MIB;

/// The least memory with which a guest boots, in bytes.
pub(crate) const MIN_MEMORY: u64 = 64 * MIB;

/// What the host can give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    /// CPUs that this process may run on.
    pub(crate) cpus: u32,
    /// The most vCPUs that the monitor gives a VM.
    pub(crate) max_vcpus: u32,
    /// Memory, in bytes.
    pub(crate) memory: u64,
}

/// A VM's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    /// vCPUs, at least one.
    pub(crate) cpus: u32,
    /// Memory, in bytes, a multiple of 2 MiB.
    pub(crate) memory: u64,
}

/// Why a VM can't have the size requested.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("{by}: {asked} is too little memory to boot a guest, {least} is the least",
        least = Bytes(MIN_MEMORY))]
    MemoryTooSmall { by: &'static str, asked: Bytes },
    #[error("{by}: {asked} is more memory than the host's {host}")]
    MemoryTooLarge {
        by: &'static str,
        asked: Bytes,
        host: Bytes,
    },
    #[error("linux.resources.memory.limit: {0} bytes isn't a limit")]
    Limit(i64),
    #[error("{by}: a VM can't have {asked} vCPUs, 1 to {most} can be had")]
    Cpus {
        by: &'static str,
        asked: u32,
        most: u32,
    },
    #[error("linux.resources.cpu.cpus: {0:?} isn't a list of CPUs")]
    CpuList(String),
}

const BY_CONFIG_CPUS: &str = "vm.cpus in the configuration file";
const BY_CONFIG_MEMORY: &str = "vm.memory in the configuration file";

/// Returns what a guest needs in addition to a container of `limit` bytes: its kernel's code and
/// data and the unpacked initramfs (48 MiB, measured with room to spare), and page tables, page
/// descriptors and file system caches, which grow with it (a sixteenth).
fn overhead(limit: u64) -> u64 {
    48 * MIB + limit / 16
}

impl Size {
    /// Chooses the size of the VM for a container with these limits.
    pub(crate) fn choose(
        annotations: &Annotations,
        resources: Option<&LinuxResources>,
        config: &VmSettings,
        host: Host,
    ) -> Result<Self, SizeError> {
        Ok(Self {
            cpus: cpus(annotations, resources, config, host)?,
            memory: memory(annotations, resources, config, host)?,
        })
    }
}

fn cpus(
    annotations: &Annotations,
    resources: Option<&LinuxResources>,
    config: &VmSettings,
    host: Host,
) -> Result<u32, SizeError> {
    let (asked, by) = match (annotations.cpus, limit_of_cpus(resources)?) {
        (Some(cpus), _) => (cpus, CPUS),
        (None, Some(limit)) => return Ok(limit.min(host.cpus).clamp(1, host.max_vcpus)),
        (None, None) => (config.cpus, BY_CONFIG_CPUS),
    };
    if asked == 0 || asked > host.max_vcpus {
        return Err(SizeError::Cpus {
            by,
            asked,
            most: host.max_vcpus,
        });
    }
    Ok(asked)
}

/// Returns how many CPUs a container can use at once, if that is limited.
fn limit_of_cpus(resources: Option<&LinuxResources>) -> Result<Option<u32>, SizeError> {
    let Some(cpu) = resources.and_then(|r| r.cpu().as_ref()) else {
        return Ok(None);
    };
    // The kernel's period is 100 ms by default; a quota that isn't positive means no limit.
    let by_quota = cpu
        .quota()
        .and_then(|quota| u64::try_from(quota).ok())
        .filter(|quota| *quota > 0)
        .map(|quota| {
            let period = cpu.period().filter(|p| *p > 0).unwrap_or(100_000);
            u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX)
        });
    let by_set = match cpu.cpus().as_deref() {
        None | Some("") => None,
        Some(list) => {
            // Not every kernel takes a list with an empty part.
            let is_whole = list.split(',').all(|part| !part.is_empty());
            let cpus = cpu_ranges(list).filter(|cpus| is_whole && !cpus.is_empty());
            Some(count(&cpus.ok_or_else(|| SizeError::CpuList(list.into()))?))
        }
    };
    Ok(match (by_quota, by_set) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    })
}

fn memory(
    annotations: &Annotations,
    resources: Option<&LinuxResources>,
    config: &VmSettings,
    host: Host,
) -> Result<u64, SizeError> {
    let limit = resources
        .and_then(|r| r.memory().as_ref())
        .and_then(|m| m.limit())
        .filter(|limit| *limit != -1); // no limit, as Docker and Podman write it
    let (asked, by) = match (annotations.memory, limit) {
        (Some(Bytes(memory)), _) => (memory, MEMORY),
        (None, Some(limit)) => {
            let bytes = u64::try_from(limit).map_err(|_| SizeError::Limit(limit))?;
            let memory = bytes.saturating_add(overhead(bytes)).min(host.memory);
            return Ok(round(memory.max(MIN_MEMORY)));
        }
        (None, None) => (config.memory.0, BY_CONFIG_MEMORY),
    };
    if asked < MIN_MEMORY {
        return Err(SizeError::MemoryTooSmall {
            by,
            asked: Bytes(asked),
        });
    }
    if asked > host.memory {
        return Err(SizeError::MemoryTooLarge {
            by,
            asked: Bytes(asked),
            host: Bytes(host.memory),
        });
    }
    Ok(round(asked))
}

/// Rounds up to a multiple of [`GRANULE`]; the values passed fit in the host's memory.
fn round(memory: u64) -> u64 {
    memory.div_ceil(GRANULE).saturating_mul(GRANULE)
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxCpu, LinuxMemory};

    use super::*;

    const HOST: Host = Host {
        cpus: 4,
        max_vcpus: 32,
        memory: 8 << 30,
    };

    fn choose(json: &str, annotations: Annotations) -> Result<Size, SizeError> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        Size::choose(&annotations, Some(&resources), &VmSettings::default(), HOST)
    }

    #[test]
    fn cpus_come_from_limits() {
        for (cpu, expected) in [
            (r#"{}"#, 1),
            (r#"{"shares": 4096}"#, 1),
            (r#"{"quota": 50000, "period": 100000}"#, 1),
            (r#"{"quota": 150000, "period": 100000}"#, 2),
            (r#"{"quota": 200000, "period": 100000}"#, 2),
            (r#"{"quota": 200000}"#, 2),
            (r#"{"quota": -1, "period": 100000}"#, 1),
            (r#"{"cpus": "0-2"}"#, 3),
            (r#"{"cpus": "0,2,2,0-1"}"#, 3),
            (r#"{"cpus": "0-3", "quota": 150000, "period": 100000}"#, 2),
            (r#"{"cpus": "1", "quota": 150000, "period": 100000}"#, 1),
            // No more than the host has.
            (r#"{"quota": 9900000, "period": 100000}"#, 4),
            (r#"{"cpus": "0-4294967295"}"#, 4),
        ] {
            let size = choose(&format!(r#"{{"cpu": {cpu}}}"#), Annotations::default()).unwrap();
            assert_eq!(size.cpus, expected, "{cpu}");
        }
        for list in ["x", "1-", "3-1", ",", "0,,1", "-1", "99999999999"] {
            let mut cpu = LinuxCpu::default();
            cpu.set_cpus(Some(list.into()));
            let mut resources = LinuxResources::default();
            resources.set_cpu(Some(cpu));
            assert_eq!(
                limit_of_cpus(Some(&resources)),
                Err(SizeError::CpuList(list.into()))
            );
        }
    }

    #[test]
    fn memory_has_room_for_the_guest() {
        for (limit, expected) in [
            (-1, 256),
            (0, 64),
            (1 << 20, 64),
            (64 << 20, 116),
            (128 << 20, 184),
            (1 << 30, 1024 + 48 + 64),
            (1 << 40, 8192), // all that the host has
            (i64::MAX, 8192),
        ] {
            let mut memory = LinuxMemory::default();
            memory.set_limit(Some(limit));
            let mut resources = LinuxResources::default();
            resources.set_memory(Some(memory));
            let size = Size::choose(
                &Annotations::default(),
                Some(&resources),
                &VmSettings::default(),
                HOST,
            );
            assert_eq!(size.map(|s| s.memory / MIB), Ok(expected), "{limit}");
        }
    }

    #[test]
    fn annotations_come_before_limits() {
        let annotations = Annotations {
            cpus: Some(8),
            memory: Some(Bytes(512 * MIB + 1)),
            ..Annotations::default()
        };
        let limits = r#"{"cpu": {"quota": 100000}, "memory": {"limit": 104857600}}"#;
        assert_eq!(
            choose(limits, annotations),
            Ok(Size {
                cpus: 8,
                memory: 514 * MIB
            })
        );
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        let memory = |bytes| Annotations {
            memory: Some(Bytes(bytes)),
            ..Annotations::default()
        };
        let cpus = |n| Annotations {
            cpus: Some(n),
            ..Annotations::default()
        };
        for (annotations, message) in [
            (
                memory(32 * MIB),
                "dev.nacre.vm.memory: 32 MiB is too little memory to boot a guest, 64 MiB is the least",
            ),
            (
                memory(u64::MAX),
                "dev.nacre.vm.memory: 18446744073709551615 bytes is more memory than the host's 8192 MiB",
            ),
            (
                cpus(0),
                "dev.nacre.vm.cpus: a VM can't have 0 vCPUs, 1 to 32 can be had",
            ),
            (
                cpus(33),
                "dev.nacre.vm.cpus: a VM can't have 33 vCPUs, 1 to 32 can be had",
            ),
        ] {
            assert_eq!(choose("{}", annotations).unwrap_err().to_string(), message);
        }
        let limit = r#"{"memory": {"limit": -2}}"#;
        assert_eq!(
            choose(limit, Annotations::default()),
            Err(SizeError::Limit(-2))
        );
    }
}
