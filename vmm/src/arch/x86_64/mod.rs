//! x86-64: direct 64-bit boot of an ELF `vmlinux`, an MP table instead of ACPI, and KVM's
//! in-kernel interrupt controllers.

mod boot;
mod boot_params;
mod cpuid;
mod interrupts;
mod layout;
mod mptable;
mod msrs;
mod pmu;
mod ports;
pub(crate) mod registers;
mod vcpu_setup;

pub(crate) use boot::{Boot, BootError};
pub(crate) use interrupts::create_irqchip;
pub use layout::MAX_VCPUS;
pub(crate) use layout::{
    CMDLINE_CAPACITY, DEVICE_IRQS, ELF_MACHINE, GDT, HIGH_MEMORY, KERNEL_LIMIT, KERNEL_SPACE,
    MMIO_DEVICE_SIZE, MMIO_START, PML4, ZERO_PAGE, memory_ranges,
};
pub(crate) use pmu::disable_pmu;
pub(crate) use ports::Ports;
pub(crate) use vcpu_setup::{VcpuSetup, can_nest};
