//! The model-specific registers that firmware would have set.

use kvm_bindings::{Msrs, kvm_msr_entry};

const IA32_MISC_ENABLE: u32 = 0x1a0;
/// "Fast strings". Linux stops using `rep movsb` on an Intel processor without it.
const FAST_STRINGS: u64 = 1;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, and write-back by default: Linux doesn't use the PAT if they are off.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

/// Returns registers and their values at boot, the same for every vCPU.
pub(super) fn at_boot() -> Result<Msrs, vmm_sys_util::fam::Error> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[
        entry(IA32_MISC_ENABLE, FAST_STRINGS),
        entry(IA32_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
    ])
}
