//! How large a container's VM is. This is the one place that decides it.
//!
//! *vCPUs*: the annotation `dev.nacre.vm.cpus`; else the container's CPU limits, that is, its
//! quota over its period rounded up, or the number of CPUs in its cpuset, or the smaller of
//! both; else `vm.cpus` of the configuration file; else 1. CPU shares have no say.
//!
//! *Memory*: the annotation `dev.nacre.vm.memory`; else the container's memory limit and room
//! for the guest's kernel and agent ([`overhead`]), so that the container meets its own limit
//! before the guest runs out; else `vm.memory` of the configuration file; else 256 MiB. It is
//! rounded up to a multiple of 2 MiB.
//!
//! What is asked for by annotation or in the configuration file must lie between what can
//! boot and what the host has. A container's limit is a ceiling and not a wish, so one that is
//! above what the host has is lowered to that.

use std::{fmt, str::FromStr};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::{Vm, annotations::Annotations};

const MIB: u64 = 1 << 20;

/// What guest memory is a multiple of: a huge page.
const GRANULE: u64 = 2 * MIB;

/// The least memory that a guest boots with, in bytes.
pub(crate) const MIN_MEMORY: u64 = 64 * MIB;

/// A number of bytes; as text, a number and perhaps K, M, G or T (powers of 1024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Bytes(pub(crate) u64);

/// A text that isn't a size.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} isn't a size: bytes, or with K, M, G or T at the end")]
pub(crate) struct NotASize(String);

impl NotASize {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }
}

impl FromStr for Bytes {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let (digits, shift) = match text.bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            Some(b'T' | b't') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        // u64's own parser takes a leading plus.
        let number = digits.bytes().all(|b| b.is_ascii_digit());
        match digits.parse::<u64>() {
            Ok(n) if number => n
                .checked_mul(1 << shift)
                .map(Self)
                .ok_or_else(|| NotASize(text.into())),
            _ => Err(NotASize(text.into())),
        }
    }
}

impl TryFrom<String> for Bytes {
    type Error = NotASize;

    fn try_from(text: String) -> Result<Self, NotASize> {
        text.parse()
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % MIB == 0 => write!(f, "{} MiB", bytes / MIB),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// What the host has to give.
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

/// Why a VM can't have the size that is asked for.
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

/// What a guest needs besides a container of `limit` bytes: its kernel's code and data and
/// the unpacked initramfs (48 MiB, measured with room to spare), and page tables, page
/// descriptors and file system caches that grow with it (a sixteenth).
fn overhead(limit: u64) -> u64 {
    48 * MIB + limit / 16
}

impl Size {
    /// The size of the VM for a container with these limits.
    pub(crate) fn choose(
        annotations: &Annotations,
        resources: Option<&LinuxResources>,
        config: &Vm,
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
    config: &Vm,
    host: Host,
) -> Result<u32, SizeError> {
    let (asked, by) = match (annotations.cpus, limit_of_cpus(resources)?) {
        (Some(cpus), _) => (cpus, super::annotations::CPUS),
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

/// How many CPUs a container can use at once, if it is limited.
fn limit_of_cpus(resources: Option<&LinuxResources>) -> Result<Option<u32>, SizeError> {
    let Some(cpu) = resources.and_then(|r| r.cpu().as_ref()) else {
        return Ok(None);
    };
    // The kernel's period is 100 ms unless told otherwise; a quota that isn't positive is none.
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
            let cpus = parse_cpu_list(list).ok_or_else(|| SizeError::CpuList(list.into()))?;
            Some(count(&cpus))
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
    config: &Vm,
    host: Host,
) -> Result<u64, SizeError> {
    let limit = resources
        .and_then(|r| r.memory().as_ref())
        .and_then(|m| m.limit())
        .filter(|limit| *limit != -1); // no limit, as Docker and Podman write it
    let (asked, by) = match (annotations.memory, limit) {
        (Some(Bytes(memory)), _) => (memory, super::annotations::MEMORY),
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

/// Rounds up to a multiple of [`GRANULE`]; what is passed fits in the host's memory.
fn round(memory: u64) -> u64 {
    memory.div_ceil(GRANULE).saturating_mul(GRANULE)
}

/// The ranges of a list of CPUs in the kernel's form, such as `0-3,8`, as first and last CPU;
/// at most 1024 ranges. `None` if it is not such a list.
pub(crate) fn parse_cpu_list(list: &str) -> Option<Vec<(u32, u32)>> {
    let mut ranges = Vec::new();
    for range in list.trim().split(',') {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok()).flatten()
        };
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(range)?, number(range)?),
        };
        if first > last || ranges.len() == 1024 {
            return None;
        }
        ranges.push((first, last));
    }
    Some(ranges)
}

/// How many different CPUs the ranges name.
fn count(ranges: &[(u32, u32)]) -> u32 {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let (mut total, mut next) = (0u64, 0u64);
    for (first, last) in sorted {
        let first = u64::from(first).max(next);
        let end = u64::from(last) + 1;
        total += end.saturating_sub(first);
        next = next.max(end);
    }
    u32::try_from(total).unwrap_or(u32::MAX)
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
        Size::choose(&annotations, Some(&resources), &Vm::default(), HOST)
    }

    #[test]
    fn texts_are_sizes() {
        for (text, bytes) in [
            ("1", 1),
            ("536870912", 512 * MIB),
            ("512M", 512 * MIB),
            ("512m", 512 * MIB),
            ("4K", 4096),
            ("1G", 1024 * MIB),
            ("1T", 1 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "M",
            "1.5G",
            "-1",
            "+1",
            "1 G",
            "1GB",
            "0x10",
            "99999999999T",
            "é",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
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
                &Vm::default(),
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
