//! What a container's VM may take from the host: the limits of the sandbox process, with its
//! guest's memory, all of its threads and QEMU.
//!
//! The container's own limits hold in the guest, where the engine sets them. But a guest that has
//! been taken over does what it likes with the memory and the processors that it has, so the host
//! limits it once more:
//!
//! *Memory*: the VM's memory, whatever the container's limit, since the guest's kernel can touch
//! all of it; and the VM's overhead ([`overhead`]). What the host caches of files for the guest
//! counts, and is given up when room is needed. Swap is limited to what the container may use.
//!
//! *CPU*: the container's quota, shares and sets. They hold for vCPUs and devices together, quota
//! and shares from the container's start to its end: booting is nacre's own work, which a small
//! quota, or few shares on a busy host, would make take minutes. A cpuset names CPUs and memory
//! nodes of the host.
//!
//! *Threads*: [`MAX_THREADS`]. The container's limit on processes counts those of the guest.
//!
//! *I/O*: the container's weight, from its start on, which would mean nothing in a guest that runs
//! nothing else.

use nacre_agent::container::cgroups::Cgroup;
use nacre_vmm::qemu::TRANSLATIONS;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::config::{hypervisor::Hypervisor, size::Size};

const MIB: u64 = 1 << 20;

/// The most threads that a VM may have, far above what any has.
const MAX_THREADS: i64 = 256;

/// What each file that a guest knows costs the host, in bytes: an open file, its inode and its name
/// in the kernel, and what virtiofsd keeps of it (1.8 KiB on ext4, by the sizes in
/// `/proc/slabinfo`).
const FILE_COST: u64 = 2 << 10;

/// A guest may know one file per this many bytes of its memory. To know a file takes a guest more
/// than 1 KiB.
const MEMORY_PER_FILE: u64 = 4 << 10;

/// Returns what a VM takes besides its guest's memory, page tables and files, in bytes, unless
/// `vm.overhead-memory` says otherwise: the measured use with room to spare, in which the host also
/// caches what the guest reads and writes. For a guest that had run a shell and looked at all of
/// its files, the use was 5 MiB on KVM; with QEMU it was 60 MiB, for its cgroup without guest
/// memory, plus the memory that translations may take.
pub(super) fn default_overhead(hypervisor: Hypervisor) -> u64 {
    match hypervisor {
        Hypervisor::Kvm => 64 * MIB,
        Hypervisor::Qemu => 128 * MIB + TRANSLATIONS,
    }
}

/// Returns how many files a guest with this much memory may know at a time.
pub(super) fn files(memory: u64) -> u64 {
    memory / MEMORY_PER_FILE
}

/// Returns what a VM takes besides its guest's memory, in bytes: a fixed amount, five page tables
/// (the monitor's, QEMU's or KVM's, what the kernel keeps of each page, and one for each device of
/// the file server's), and what its guest's files take.
fn overhead(fixed: u64, memory: u64) -> u64 {
    let files = files(memory).min(nacre_vmm::devices::virtio::fs::MAX_GUEST_FILES);
    fixed
        .saturating_add(memory / 64)
        .saturating_add(files * FILE_COST)
}

/// What a cgroup has if nobody has set its shares (cgroups(7), `cpu.shares`).
const DEFAULT_SHARES: u64 = 1024;

/// The limits of a VM's sandbox process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostLimits {
    /// Limits from before the guest's boot on.
    pub(super) at_boot: LinuxResources,
    /// Further limits from the container's start on.
    pub(super) at_start: Option<LinuxResources>,
}

impl HostLimits {
    /// Returns the limits of a VM of that size for a container with these limits. `fixed` is the
    /// overhead that doesn't depend on the size.
    pub(super) fn new(asked: Option<&LinuxResources>, size: Size, fixed: u64) -> Self {
        let none = LinuxResources::default();
        let asked = asked.unwrap_or(&none);
        let mut at_boot = of_host(asked);
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
        let mut later = LinuxResources::default();
        later.set_block_io(at_boot.block_io().clone());
        at_boot.set_block_io(None);
        if let Some(mut cpu) = at_boot.cpu().clone() {
            let mut sets = LinuxCpu::default();
            sets.set_cpus(cpu.cpus().clone());
            sets.set_mems(cpu.mems().clone());
            at_boot.set_cpu(Some(sets));
            cpu.set_cpus(None);
            cpu.set_mems(None);
            later.set_cpu(Some(cpu).filter(|cpu| *cpu != LinuxCpu::default()));
        }
        let at_start = Some(later).filter(|later| *later != LinuxResources::default());
        Self { at_boot, at_start }
    }

    /// Returns the CPU limits that hold in `cgroup` from the container's start on, if there are
    /// any.
    pub(super) fn of_workload<'a>(&self, cgroup: &'a Cgroup) -> Option<WorkloadLimits<'a>> {
        let cpu = self.at_start.as_ref()?.cpu().as_ref()?;
        let mut lifted = LinuxCpu::default();
        lifted.set_shares(cpu.shares().map(|_| DEFAULT_SHARES));
        lifted.set_quota(cpu.quota().map(|_| -1));
        lifted.set_idle(cpu.idle().map(|_| 0));
        let mut limits = LinuxResources::default();
        limits.set_cpu(Some(lifted));
        Some(WorkloadLimits {
            cgroup,
            lifted: limits,
        })
    }
}

/// CPU limits that hold back a workload but mustn't delay its VM's end, for which others wait.
pub(super) struct WorkloadLimits<'a> {
    cgroup: &'a Cgroup,
    /// The values that lift the limits.
    lifted: LinuxResources,
}

impl WorkloadLimits<'_> {
    pub(super) fn lift(&self) {
        // If it fails, the end takes longer.
        let _ = self.cgroup.limit_where_possible(&self.lifted);
    }
}

/// Warns of limits that this host can't set. The VM's size doesn't depend on the host's limits on
/// memory and threads, so only limits that the container asks for matter.
pub(super) fn tell_of_left_out(fields: &[String]) {
    let asked = |field: &&String| field.starts_with("cpu") || field.starts_with("blockIO");
    for field in fields.iter().filter(asked) {
        tracing::warn!("linux.resources.{field}: this host can't limit the VM by it");
    }
}

/// Returns the part of a container's limits that the host sets unchanged.
pub(super) fn of_host(asked: &LinuxResources) -> LinuxResources {
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

/// Returns the container's new limit on memory, if these limits change it.
pub(super) fn of_memory(asked: &LinuxResources) -> Option<i64> {
    let limit = asked.memory().as_ref().and_then(LinuxMemory::limit);
    limit.filter(|limit| *limit != 0)
}

/// Returns the container's limit on memory and swap, with `total` in place of its limit on memory.
pub(super) fn swap(asked: &LinuxMemory, total: i64) -> Option<i64> {
    match (asked.limit(), asked.swap()?) {
        (_, -1) => Some(-1),
        // A guest's engine that can be trusted refuses less than the limit on memory alone.
        (Some(limit @ 1..), swap @ 1..) => {
            Some(total.saturating_add(swap.saturating_sub(limit).max(0)))
        }
        // The guest's engine refuses it by name, or takes it as no limit.
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
                    "cpu": {"cpus": "1", "mems": "0"},
                    "pids": {"limit": 256},
                })),
                at_start: Some(resources(json!({
                    "blockIO": {"weight": 500},
                    "cpu": {
                        "shares": 512, "quota": 20_000, "period": 100_000, "burst": 1, "idle": 0,
                    },
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
