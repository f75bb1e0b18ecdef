//! What is specific to a processor architecture: the layout of guest memory, how a kernel is
//! entered, how vCPUs and the interrupt controller are set up.
//!
//! Each architecture has its own module with the same items; the rest of the monitor uses them
//! through this one.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::MAX_VCPUS;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    Boot, BootError, CMDLINE_CAPACITY, DEVICE_IRQS, ELF_MACHINE, GDT, HIGH_MEMORY, KERNEL_LIMIT,
    KERNEL_SPACE, MMIO_DEVICE_SIZE, MMIO_START, PML4, Ports, VcpuSetup, ZERO_PAGE, can_nest,
    create_irqchip, disable_pmu, memory_ranges, registers,
};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("nacre-vmm knows x86-64 only");
