//! Creates KVM's in-kernel interrupt controllers.

use kvm_ioctls::VmFd;

use super::layout::{KVM_IDENTITY_MAP, KVM_TSS};

/// Creates the local APICs, the I/O APIC and the PICs, all in the kernel: interrupts and their
/// acknowledgement then stay there. There is no PIT: a guest with kvmclock and the local APIC's
/// TSC-deadline timer doesn't need one, and it would cost a thread of the host.
///
/// Must be called before any vCPU is created.
pub(crate) fn create_irqchip(vm: &VmFd) -> Result<(), kvm_ioctls::Error> {
    vm.set_identity_map_address(KVM_IDENTITY_MAP)?;
    vm.set_tss_address(KVM_TSS)?;
    vm.create_irq_chip()
}
