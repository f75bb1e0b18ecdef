//! What CPUID tells the guest: what KVM supports, except performance counters and, unless
//! requested, virtualization, with each vCPU's own APIC id and a topology of one package with one
//! single-threaded core per vCPU.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Leaf 1, ECX: the hypervisor bit and the local APIC timer's TSC-deadline mode.
const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: performance capabilities (Intel).
const PDCM: u32 = 1 << 15;
/// Leaf 1, ECX: virtualization, and the measured launch of a hypervisor (Intel). KVM gives a guest
/// the registers of the features that CPUID shows, and no others.
const VMX: u32 = 1 << 5;
const SMX: u32 = 1 << 6;
/// Leaf 0x8000_0001, ECX: the same (AMD).
const SVM: u32 = 1 << 2;
const SKINIT: u32 = 1 << 12;
/// The features of SVM.
const SVM_LEAF: u32 = 0x8000_000a;
/// Leaf 1, EDX: the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001, ECX: the logical processors are cores, not threads (AMD).
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001, ECX: performance counters of the core, the northbridge, the cache (AMD).
const PERF_COUNTERS: u32 = 1 << 23 | 1 << 24 | 1 << 28;

/// Leaf 0, EBX: the beginning of the names of the vendors whose processors have AMD's leaves.
const AUTH_ENTIC_AMD: u32 = u32::from_le_bytes(*b"Auth");
const HYGO_N_GENUINE: u32 = u32::from_le_bytes(*b"Hygo");

/// A vCPU's id, and how many there are.
struct Vcpu {
    id: u32,
    count: u32,
    tsc_deadline: bool,
    nested: bool,
    amd: bool,
}

/// Returns whether `supported` (from `KVM_GET_SUPPORTED_CPUID`) has what a guest needs for virtual
/// machines of its own: KVM leaves it out if its module's parameter `nested` is off.
pub(super) fn can_nest(supported: &CpuId) -> bool {
    let has = |function, bit| {
        let mut entries = supported.as_slice().iter();
        entries.any(|entry| entry.function == function && entry.ecx & bit != 0)
    };
    has(1, VMX) || has(0x8000_0001, SVM)
}

/// Turns `supported` (from `KVM_GET_SUPPORTED_CPUID`) into what vCPU `id` of `count` sees.
///
/// # Errors
///
/// If the list would be longer than KVM accepts.
pub(super) fn for_vcpu(
    supported: &CpuId,
    id: u8,
    count: u8,
    tsc_deadline: bool,
    nested: bool,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let supported = supported.as_slice();
    let leaf0 = supported.iter().find(|entry| entry.function == 0);
    let max_leaf = leaf0.map_or(0, |entry| entry.eax);
    let vendor = leaf0.map_or(0, |entry| entry.ebx);
    let vcpu = Vcpu {
        id: id.into(),
        count: count.into(),
        tsc_deadline,
        nested,
        amd: matches!(vendor, AUTH_ENTIC_AMD | HYGO_N_GENUINE),
    };

    // Topology leaves with sublevels are rebuilt. Leaves of performance counters are removed.
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .iter()
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f | 0x8000_0026))
        .filter(|entry| !matches!(entry.function, 0xa | 0x8000_0022))
        .filter(|entry| nested || entry.function != SVM_LEAF)
        .copied()
        .collect();
    for entry in &mut entries {
        vcpu.patch(entry);
    }
    if max_leaf >= 0xb {
        entries.extend(vcpu.extended_topology(0xb));
    }
    if max_leaf >= 0x1f && supported.iter().any(|entry| entry.function == 0x1f) {
        entries.extend(vcpu.extended_topology(0x1f));
    }
    CpuId::from_entries(&entries)
}

impl Vcpu {
    fn patch(&self, entry: &mut kvm_cpuid_entry2) {
        match entry.function {
            1 => {
                entry.ebx = (entry.ebx & 0xffff) | self.count << 16 | self.id << 24;
                entry.ecx |= HYPERVISOR;
                entry.ecx &= !(PDCM | SMX);
                if !self.nested {
                    entry.ecx &= !VMX;
                }
                set(&mut entry.ecx, TSC_DEADLINE, self.tsc_deadline);
                set(&mut entry.edx, HTT, self.count > 1);
            }
            // Deterministic cache parameters (Intel): how many APIC ids share the cache, and how
            // many are reserved for the package's cores. An entry of type 0 ends the list.
            4 if entry.eax & 0x1f != 0 => {
                let sharing = self.sharing(entry).next_power_of_two();
                entry.eax = (entry.eax & 0x3fff)
                    | (sharing - 1) << 14
                    | (self.count.next_power_of_two() - 1) << 26;
            }
            0x8000_0001 => {
                set(&mut entry.ecx, CMP_LEGACY, self.amd && self.count > 1);
                entry.ecx &= !(PERF_COUNTERS | SKINIT);
                if !self.nested {
                    entry.ecx &= !SVM;
                }
            }
            // Cores in the package, and the bits of an APIC id that number them.
            0x8000_0008 if self.amd => {
                entry.ecx = (entry.ecx & !0xf0ff) | (self.count - 1) | self.core_bits() << 12;
            }
            // Cache topology (AMD), as leaf 4.
            0x8000_001d if entry.eax & 0x1f != 0 => {
                entry.eax = (entry.eax & 0x3fff) | (self.sharing(entry) - 1) << 14;
            }
            // Extended APIC id; core id, with one thread a core; one node.
            0x8000_001e => {
                entry.eax = self.id;
                entry.ebx = self.id;
                entry.ecx = 0;
                entry.edx = 0;
            }
            _ => {}
        }
    }

    /// Returns how many cores share the cache that an entry of leaf 4 or 0x8000_001d describes: all
    /// of them share the third level; other caches belong to one core.
    fn sharing(&self, cache: &kvm_cpuid_entry2) -> u32 {
        let level = cache.eax >> 5 & 0x7;
        if level >= 3 { self.count } else { 1 }
    }

    /// Returns how many bits of an APIC id number the cores.
    fn core_bits(&self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    /// Returns the extended topology leaves, 0xb and 0x1f: threads (one per core), cores, and the
    /// end.
    fn extended_topology(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        const THREADS: u32 = 1 << 8;
        const CORES: u32 = 2 << 8;
        let level = |index: u32, shift, processors, kind| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: processors,
            ecx: index | kind,
            edx: self.id,
            ..Default::default()
        };
        [
            level(0, 0, 1, THREADS),
            level(1, self.core_bits(), self.count, CORES),
            level(2, 0, 0, 0),
        ]
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    if on {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid
            .as_slice()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"))
    }

    fn supported(max_leaf: u32) -> CpuId {
        CpuId::from_entries(&[
            entry(0, max_leaf, AUTH_ENTIC_AMD, 0, 0),
            entry(1, 0x800f12, 0xff10_0800, TSC_DEADLINE | PDCM, HTT),
            entry(4, 0xfc00_4163, 0, 0, 0),
            entry(0xa, 0x0730_0402, 0, 0, 0x603),
            entry(0xb, 7, 7, 7, 7),
            entry(0x1f, 7, 7, 7, 7),
            entry(0x8000_0001, 0, 0, 0x40 | PERF_COUNTERS, 0),
            entry(0x8000_0008, 0x3028, 0, 0x503f, 0),
            entry(0x8000_001d, 0x1fc163, 0, 0, 0),
            entry(0x8000_001e, 9, 9, 9, 9),
            entry(0x8000_0022, 1, 6, 0, 0),
        ])
        .unwrap()
    }

    #[test]
    fn a_vcpu_gets_its_own_apic_id_everywhere() {
        let cpuid = for_vcpu(&supported(0x1f), 3, 6, true, false).unwrap();
        let one = leaf(&cpuid, 1, 0);
        assert_eq!(one.ebx, 0x0306_0800);
        assert_eq!(one.ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(one.edx, HTT);
        assert_eq!(leaf(&cpuid, 0x8000_001e, 0).eax, 3);
        for function in [0xb, 0x1f] {
            for index in 0..3 {
                assert_eq!(leaf(&cpuid, function, index).edx, 3);
            }
            // Six cores need three bits.
            assert_eq!(leaf(&cpuid, function, 1).eax, 3);
            assert_eq!(leaf(&cpuid, function, 1).ebx, 6);
            assert_eq!(leaf(&cpuid, function, 2).ecx, 2);
        }
    }

    #[test]
    fn the_topology_is_one_package_of_single_threaded_cores() {
        let cpuid = for_vcpu(&supported(0xd), 0, 6, true, false).unwrap();
        // All share an L3 cache; eight APIC ids hold six cores.
        assert_eq!(leaf(&cpuid, 4, 0).eax, 7 << 26 | 7 << 14 | 0x163);
        assert_eq!(leaf(&cpuid, 0x8000_001d, 0).eax, 5 << 14 | 0x163);
        assert_eq!(leaf(&cpuid, 0x8000_0008, 0).ecx, 0x3005);
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).ecx, 0x40 | CMP_LEGACY);
        assert!(!cpuid.as_slice().iter().any(|e| e.function == 0x1f));
    }

    #[test]
    fn one_vcpu_is_no_multiprocessor() {
        let cpuid = for_vcpu(&supported(0xd), 0, 1, false, false).unwrap();
        let one = leaf(&cpuid, 1, 0);
        assert_eq!(one.edx & HTT, 0);
        assert_eq!(one.ecx & TSC_DEADLINE, 0);
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).ecx & CMP_LEGACY, 0);
        assert_eq!(leaf(&cpuid, 0x8000_0008, 0).ecx & 0xf0ff, 0);
        assert_eq!(leaf(&cpuid, 0xb, 1).eax, 0);
    }

    #[test]
    fn there_are_no_performance_counters() {
        let cpuid = for_vcpu(&supported(0xd), 0, 1, true, false).unwrap();
        assert_eq!(leaf(&cpuid, 0x8000_0001, 0).ecx, 0x40);
        assert_eq!(leaf(&cpuid, 1, 0).ecx & PDCM, 0);
        let shown = |function| cpuid.as_slice().iter().any(|e| e.function == function);
        assert!(!shown(0xa) && !shown(0x8000_0022));
    }

    #[test]
    fn leaves_beyond_the_highest_are_not_added() {
        let cpuid = for_vcpu(&supported(7), 0, 2, true, false).unwrap();
        assert!(!cpuid.as_slice().iter().any(|e| e.function == 0xb));
    }

    #[test]
    fn there_is_virtualization_only_if_it_was_asked_for() {
        let offered = CpuId::from_entries(&[
            entry(0, 0xd, AUTH_ENTIC_AMD, 0, 0),
            entry(1, 0, 0, VMX | SMX, 0),
            entry(0x8000_0001, 0, 0, SVM | SKINIT | 0x40, 0),
            entry(SVM_LEAF, 1, 8, 0, 1),
        ])
        .unwrap();
        assert!(can_nest(&offered) && !can_nest(&supported(0xd)));
        for nested in [false, true] {
            let cpuid = for_vcpu(&offered, 0, 1, false, nested).unwrap();
            assert_eq!(can_nest(&cpuid), nested);
            let shown = cpuid.as_slice().iter().any(|e| e.function == SVM_LEAF);
            assert_eq!(shown, nested);
            assert_eq!(leaf(&cpuid, 1, 0).ecx & SMX, 0);
            let amd = leaf(&cpuid, 0x8000_0001, 0).ecx;
            assert_eq!(amd & !SVM, 0x40);
        }
        // Requesting what isn't supported has no effect.
        let cpuid = for_vcpu(&supported(0xd), 0, 1, false, true).unwrap();
        assert!(!can_nest(&cpuid));
    }
}
