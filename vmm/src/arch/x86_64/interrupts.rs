//! KVM's in-kernel interrupt controllers.

use kvm_ioctls::VmFd;

use super::layout::{KVM_IDENTITY_MAP, KVM_TSS};

/// Creates the local APICs, the I/O APIC and the PICs, all in the kernel: interrupts and their
/// acknowledgement then don't leave it. There is no PIT: a guest with kvmclock and the local
/// APIC's TSC-deadline timer has no use for one, and it costs a thread of the host.
///
/// Called before any vCPU is created.
pub(crate) fn create_irqchip(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    vm.set_identity_map_address(KVM_IDENTITY_MAP)?;
    vm.set_tss_address(KVM_TSS)?;
    vm.create_irq_chip()
}
