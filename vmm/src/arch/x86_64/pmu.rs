//! Leaves out performance counters: a machine has none.

use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, kvm_enable_cap};
use kvm_ioctls::VmFd;

/// Leaves out performance counters, if KVM can (Linux 5.18): switching them costs time at each
/// entry into the guest, and they observe more than the guest. CPUID doesn't show them either.
///
/// Must be called before any vCPU is created.
pub(crate) fn disable_pmu(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    let supported = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    if supported as u32 & KVM_PMU_CAP_DISABLE == 0 {
        return Ok(());
    }
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        ..Default::default()
    };
    cap.args[0] = KVM_PMU_CAP_DISABLE.into();
    vm.enable_cap(&cap)
}
