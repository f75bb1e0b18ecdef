//! x86-64: direct 64-bit boot of an ELF `vmlinux`, an MP table instead of ACPI, and KVM's
//! in-kernel interrupt controllers.

mod boot_params;
mod cpuid;
mod interrupts;
mod layout;
mod mptable;
mod msrs;
mod pmu;
mod ports;
pub(crate) mod probe;
mod registers;

use std::io;

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

pub(crate) use interrupts::create_irqchip;
pub(crate) use layout::{
    CMDLINE_CAPACITY, DEVICE_IRQS, GDT, HIGH_MEMORY, MMIO_DEVICE_SIZE, MMIO_START, PML4, ZERO_PAGE,
    memory_ranges,
};
pub(crate) use pmu::disable_pmu;
pub(crate) use ports::Ports;

/// The most vCPUs that a machine has: as many as the MP table has room for.
pub const MAX_VCPUS: u8 = 32;

/// What ELF's `e_machine` says of a kernel for this architecture (`EM_X86_64`).
pub(crate) const ELF_MACHINE: u16 = 62;
/// Kernel virtual addresses start here.
pub(crate) const KERNEL_SPACE: u64 = 0xffff_8000_0000_0000;
/// A kernel must end before this address: the boot page tables map no more.
pub(crate) const KERNEL_LIMIT: u64 = layout::IDENTITY_MAPPED;

/// What a kernel is started with.
pub(crate) struct Boot<'a> {
    /// The size of guest memory.
    pub(crate) memory_size: u64,
    pub(crate) vcpus: u8,
    /// The command line, at most [`CMDLINE_CAPACITY`] with its NUL.
    pub(crate) cmdline: &'a std::ffi::CStr,
    /// Where the initramfs lies, and how long it is.
    pub(crate) initramfs: (GuestAddress, u64),
    /// The pin of the I/O APIC that the timer of a PC (the PIT) is at.
    pub(crate) timer_pin: u8,
}

impl Boot<'_> {
    /// As KVM has its I/O APIC: each interrupt of the ISA bus at the pin of its number.
    pub(crate) const KVM_TIMER_PIN: u8 = 0;
    /// As QEMU, and a PC, has it: the timer is at the pin that the cascade leaves free.
    pub(crate) const PC_TIMER_PIN: u8 = mptable::CASCADE;

    /// Writes what the kernel finds in memory when it is entered.
    pub(crate) fn write(&self, memory: &GuestMemoryMmap) -> Result<(), BootError> {
        let mut rng_seed = [0; boot_params::RNG_SEED_SIZE];
        random(&mut rng_seed).map_err(BootError::Random)?;
        memory.write_slice(self.cmdline.to_bytes_with_nul(), layout::CMDLINE)?;
        boot_params::BootParams {
            memory_size: self.memory_size,
            cmdline_len: self.cmdline.count_bytes(),
            initramfs: self.initramfs,
            rng_seed,
        }
        .write(memory)?;
        mptable::write(memory, self.vcpus, self.timer_pin)?;
        registers::write_tables(memory)?;
        Ok(())
    }
}

/// Why the boot structures could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error(transparent)]
    Memory(#[from] GuestMemoryError),
    #[error("getrandom")]
    Random(#[source] io::Error),
}

/// Fills `bytes` from the host's random number generator.
fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `bytes`. Up to 256 bytes are never cut
    // short once the generator is ready (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got) == Ok(bytes.len()) {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What all vCPUs have in common.
pub(crate) struct VcpuSetup {
    supported: CpuId,
    tsc_deadline: bool,
    nested: bool,
    count: u8,
}

/// Whether KVM can have its guests make virtual machines of their own.
pub(crate) fn can_nest(kvm: &Kvm) -> Result<bool, kvm_ioctls::Error> {
    let supported = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?;
    Ok(cpuid::can_nest(&supported))
}

impl VcpuSetup {
    /// Asks KVM what it supports, for a machine of `count` vCPUs, which can run virtual machines
    /// of their own if they are `nested`.
    pub(crate) fn new(kvm: &Kvm, count: u8, nested: bool) -> Result<VcpuSetup, kvm_ioctls::Error> {
        Ok(VcpuSetup {
            supported: kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
            nested,
            count,
        })
    }

    /// Sets up vCPU `id`. The first one will start at the kernel's `entry`; the others wait
    /// for its start-up interrupt.
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
