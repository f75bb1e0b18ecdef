//! Sets vCPUs up.

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vm_memory::GuestAddress;

use super::{cpuid, msrs, registers};

/// What all vCPUs have in common.
pub(crate) struct VcpuSetup {
    supported: CpuId,
    tsc_deadline: bool,
    nested: bool,
    count: u8,
}

/// Returns whether KVM's guests can run virtual machines of their own.
pub(crate) fn can_nest(kvm: &Kvm) -> Result<bool, kvm_ioctls::Error> {
    let supported = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?;
    Ok(cpuid::can_nest(&supported))
}

impl VcpuSetup {
    /// Asks KVM what it supports, for a machine of `count` vCPUs, which can run virtual machines of
    /// their own if `nested`.
    pub(crate) fn new(kvm: &Kvm, count: u8, nested: bool) -> Result<VcpuSetup, kvm_ioctls::Error> {
        Ok(VcpuSetup {
            supported: kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            nested,
            count,
        })
    }

    /// Sets up vCPU `id`. The first one starts at the kernel's `entry`; the others wait for its
    /// start-up interrupt.
    pub(crate) fn configure(
        &self,
        vcpu: &VcpuFd,
        id: u8,
        entry: GuestAddress,
    ) -> Result<(), kvm_ioctls::Error> {
        let too_long = |_| kvm_ioctls::Error::new(libc::E2BIG);
        let cpuid = cpuid::for_vcpu(
            &self.supported,
            id,
            self.count,
            self.tsc_deadline,
            self.nested,
        )
        .map_err(too_long)?;
        vcpu.set_cpuid2(&cpuid)?;
        let msrs = msrs::at_boot().map_err(too_long)?;
        if vcpu.set_msrs(&msrs)? != msrs.as_slice().len() {
            return Err(kvm_ioctls::Error::new(libc::EINVAL));
        }
        if id == 0 {
            vcpu.set_sregs(&registers::long_mode(vcpu.get_sregs()?))?;
            vcpu.set_regs(&registers::at_entry(entry))?;
        }
        Ok(())
    }
}
