//! What a container's VM may take from the host: the limits of the sandbox process, with its
//! guest's memory, all of its threads and QEMU.
//!
//! The container's own limits hold in the guest, where the engine sets them. But a guest that has
//! been taken over does what it likes with the memory and the processors that it has, so the host
//! limits it once more:
//!
//! *Memory*: the VM's memory, whatever the container's limit, as the guest's kernel can touch all
//! of it; and the VM's overhead ([`overhead`]). What the host caches of files for the guest counts,
//! and is given up when room is needed. Swap is what the container may use.
//!
//! *CPU*: the container's quota, shares and sets. The quota holds for vCPUs and devices together,
//! from the container's start on: booting is nacre's own work, and a small quota would make it
//! take minutes. A cpuset names CPUs and memory nodes of the host.
//!
//! *Threads*: [`MAX_THREADS`]. The container's limit on processes counts those of the guest.
//!
//! *I/O*: the container's weight, which would mean nothing in a guest that has nobody else in it.

use nacre_vmm::qemu::TRANSLATIONS;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::config::size::Size;

use super::hypervisor::Hypervisor;

const MIB: u64 = 1 << 20;

/// How many threads a VM has at most, far above what any has.
const MAX_THREADS: i64 = 256;

/// What each file that a guest knows takes of the host, in bytes: an open file, its inode and its
/// name in the kernel, and what virtiofsd keeps of it (1.8 KiB on ext4, by the sizes in `/proc/slabinfo`).
const FILE_COST: u64 = 2 << 10;

/// A guest may know one file for so many bytes of its memory. It takes a guest more than 1 KiB to
/// know a file.
const MEMORY_PER_FILE: u64 = 4 << 10;

/// What a VM takes without a guest's memory, page tables and files, in bytes, unless
/// `vm.overhead-memory` says otherwise: the measured use with room to spare, in which the host
/// also caches what the guest reads and writes. Measured was, of a guest that had run a shell and
/// looked at all of its files, 5 MiB on KVM; and with QEMU, of its cgroup without guest memory,
/// 60 MiB, to which translations add what they may have.
pub(super) fn default_overhead(hypervisor: Hypervisor) -> u64 {
    match hypervisor {
        Hypervisor::Kvm => 64 * MIB,
        Hypervisor::Qemu => 128 * MIB + TRANSLATIONS,
    }
}

/// How many files a guest with so much memory may know at a time.
pub(super) fn files(memory: u64) -> u64 {
    memory / MEMORY_PER_FILE
}

/// What a VM takes besides its guest's memory, in bytes: something fixed, three page tables (the
/// process's, QEMU's or KVM's, and what the kernel keeps of each page), and what its guest's
/// files take.
fn overhead(fixed: u64, memory: u64) -> u64 {
    let files = files(memory).min(nacre_vmm::devices::virtio::fs::MAX_GUEST_FILES);
    fixed
        .saturating_add(memory / 64)
        .saturating_add(files * FILE_COST)
}

/// The limits of a VM's sandbox process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostLimits {
    /// From before the guest's boot on.
    pub(super) at_boot: LinuxResources,
    /// From the container's start on, too.
    pub(super) at_start: Option<LinuxResources>,
}

impl HostLimits {
    /// Those of a VM of that size for a container with these limits. `fixed` is the overhead that
    /// doesn't depend on the size.
    pub(super) fn new(asked: Option<&LinuxResources>, size: Size, fixed: u64) -> Self {
        let none = LinuxResources::default();
        let asked = asked.unwrap_or(&none);
        let mut at_boot = of(asked);
        let total = size.memory.saturating_add(overhead(fixed, size.memory));
        let total = i64::try_from(total).unwrap_or(i64::MAX);
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(total));
        if let Some(of_container) = asked.memory() {
            memory.set_swap(swap(of_container, total));
            memory.set_reservation(of_container.reservation());
        }
        at_boot.set_memory(Some(memory));
        let mut pids = LinuxPids::default();
        pids.set_limit(MAX_THREADS);
        at_boot.set_pids(Some(pids));
        let mut at_start = None;
        if let Some(mut cpu) = at_boot.cpu().clone() {
            let mut quota = LinuxCpu::default();
            quota.set_quota(cpu.quota());
            quota.set_period(cpu.period());
            quota.set_burst(cpu.burst());
            cpu.set_quota(None);
            cpu.set_period(None);
            cpu.set_burst(None);
            at_boot.set_cpu(Some(cpu));
            if quota != LinuxCpu::default() {
                let mut resources = LinuxResources::default();
                resources.set_cpu(Some(quota));
                at_start = Some(resources);
            }
        }
        Self { at_boot, at_start }
    }
}

/// Tells of what this host can't set. The VM is as large as it is whether the host limits its
/// memory and threads or not; what the container asks for is another thing.
pub(super) fn tell_of_left_out(fields: &[String]) {
    let asked = |field: &&String| field.starts_with("cpu") || field.starts_with("blockIO");
    for field in fields.iter().filter(asked) {
        tracing::warn!("linux.resources.{field}: this host can't limit the VM by it");
    }
}

/// The part of a container's limits that the host sets as they are.
pub(super) fn of(asked: &LinuxResources) -> LinuxResources {
    let mut limits = LinuxResources::default();
    limits.set_cpu(asked.cpu().as_ref().map(|asked| {
        let mut cpu = asked.clone();
        // A guest takes no real-time bandwidth.
        cpu.set_realtime_runtime(None);
        cpu.set_realtime_period(None);
        cpu
    }));
    let weight = asked.block_io().as_ref().and_then(LinuxBlockIo::weight);
    limits.set_block_io(weight.map(|weight| {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        block_io
    }));
    limits
}

/// The container's limit on memory, if these are to change it.
pub(super) fn of_memory(asked: &LinuxResources) -> Option<i64> {
    let limit = asked.memory().as_ref().and_then(LinuxMemory::limit);
    limit.filter(|limit| *limit != 0)
}

/// The container's limit on memory and swap, with `total` in the place of its limit on memory.
pub(super) fn swap(asked: &LinuxMemory, total: i64) -> Option<i64> {
    match (asked.limit(), asked.swap()?) {
        (_, -1) => Some(-1),
        // The guest's engine refuses less than the limit on memory alone, if it is to be trusted.
        (Some(limit @ 1..), swap @ 1..) => {
            Some(total.saturating_add(swap.saturating_sub(limit).max(0)))
        }
        // The guest's engine refuses it by name, or takes it for none.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn limits(asked: Value, memory: u64) -> HostLimits {
        let asked: LinuxResources = serde_json::from_value(asked).unwrap();
        let size = Size { cpus: 1, memory };
        HostLimits::new(Some(&asked), size, 64 * MIB)
    }

    fn resources(value: Value) -> LinuxResources {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_vm_is_limited_even_if_its_container_is_not() {
        // 4 MiB of page tables, and 64 Ki files.
        let total = (256 + 64 + 4 + 128) << 20;
        let expected = HostLimits {
            at_boot: resources(json!({"memory": {"limit": total}, "pids": {"limit": 256}})),
            at_start: None,
        };
        assert_eq!(limits(json!({}), 256 << 20), expected);
        assert_eq!(limits(json!({"pids": {"limit": 5}}), 256 << 20), expected);
    }

    #[test]
    fn the_containers_limits_are_the_hosts_too() {
        let asked = json!({
            "memory": {"limit": 100, "swap": 300, "reservation": 50},
            "cpu": {
                "shares": 512, "quota": 20_000, "period": 100_000, "burst": 1, "idle": 0,
                "cpus": "1", "mems": "0", "realtimeRuntime": 1, "realtimePeriod": 2,
            },
            "pids": {"limit": 5},
            "blockIO": {"weight": 500, "leafWeight": 10},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        });
        let total = i64::try_from((64u64 + 64 + 1 + 32) << 20).unwrap();
        assert_eq!(
            limits(asked, 64 << 20),
            HostLimits {
                at_boot: resources(json!({
                    "memory": {"limit": total, "swap": total + 200, "reservation": 50},
                    "cpu": {"shares": 512, "idle": 0, "cpus": "1", "mems": "0"},
                    "pids": {"limit": 256},
                    "blockIO": {"weight": 500},
                })),
                at_start: Some(resources(json!({
                    "cpu": {"quota": 20_000, "period": 100_000, "burst": 1},
                }))),
            }
        );
    }

    #[test]
    fn swap_is_what_the_container_may_use_of_it() {
        for (memory, expected) in [
            (json!({"limit": 10}), None),
            (json!({"limit": 10, "swap": 10}), Some(1000)),
            (json!({"limit": 10, "swap": 30}), Some(1020)),
            (json!({"limit": 10, "swap": -1}), Some(-1)),
            (json!({"limit": -1, "swap": -1}), Some(-1)),
            (json!({"limit": 10, "swap": 0}), None),
            (json!({"limit": 1021, "swap": 20}), Some(1000)),
            (json!({"swap": 20}), None),
        ] {
            let memory: LinuxMemory = serde_json::from_value(memory).unwrap();
            assert_eq!(swap(&memory, 1000), expected, "{memory:?}");
        }
    }
}
