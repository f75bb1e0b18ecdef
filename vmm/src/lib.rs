//! A minimal microVM monitor: guest memory, vCPUs, kernel loading, virtio devices.
//! It knows nothing of containers.
//!
//! A [`VmConfig`] says what a machine is made of; [`Vm::new`] makes it, [`Vm::start`] lets it
//! run, and [`RunningVm::wait`] says how it ended. The guest is not trusted: whatever it
//! writes, and whatever a kernel's file holds, ends at worst in an [`Error`].
//!
//! The machine has no firmware, no PCI and no ACPI. It has a serial port, virtio devices over
//! MMIO that the kernel finds on its command line (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`), and
//! an MP table (`CONFIG_X86_MPPARSE`). The guest ends it by a reset through the keyboard
//! controller (`reboot=k`) or by writing the byte 0x34 to I/O port 0x600.
//!
//! KVM runs it. Where there is no KVM that can, [`Hypervisor::Qemu`] has QEMU emulate the
//! processor: the same memory, the same way into the kernel, the same devices, which QEMU
//! reaches over vhost-user.

mod arch;
mod console;
pub mod devices;
mod end;
mod error;
pub mod kvm;
mod loader;
mod memory;
pub mod qemu;
#[cfg(test)]
mod test_kernels;
mod vm;

pub use arch::MAX_VCPUS;
pub use devices::virtio::mmio::TransportError;
pub use error::Error;
pub use kvm::KvmError;
pub use loader::{InitramfsPart, LoadError};
pub use memory::{MAX_MEMORY, MEMORY_GRANULE, MIN_MEMORY, MemoryError};
pub use qemu::{MAX_QEMU_DEVICES, Qemu, QemuError};
pub use vm::{Exit, Hypervisor, MAX_DEVICES, RunningVm, Vm, VmConfig};
