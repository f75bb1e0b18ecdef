//! A minimal microVM monitor: guest memory, vCPUs, kernel loading, virtio devices. It knows nothing
//! about containers.
//!
//! A [`VmConfig`] says what a machine consists of; [`Vm::new`] makes it, [`Vm::start`] starts it,
//! and [`RunningVm::wait`] returns how it ended. The guest is not trusted: whatever it writes, and
//! whatever a kernel's file contains, leads at worst to an [`Error`].
//!
//! The machine has no firmware, no PCI and no ACPI. It has a serial port, virtio devices over
//! MMIO that the kernel finds on its command line (`CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES`), and
//! an MP table (`CONFIG_X86_MPPARSE`). The guest ends it by a reset through the keyboard
//! controller (`reboot=k`) or by writing the byte 0x34 to I/O port 0x600.
//!
//! KVM runs it. Where no KVM can, [`Hypervisor::Qemu`] has QEMU emulate the processor: the same
//! memory, the same entry into the kernel, the same devices, which QEMU reaches over vhost-user.

mod allowance;
mod arch;
pub mod bpf;
mod call;
mod channel;
mod child;
mod config;
mod console;
pub mod devices;
mod end;
mod error;
mod exit;
mod fork;
#[cfg(fuzzing)]
pub mod fuzz;
mod hypervisor;
mod inherited;
pub mod kvm;
mod kvm_error;
mod landlock;
mod limits;
mod loader;
mod memory;
pub mod monitor;
mod own_user;
pub mod phase;
pub mod qemu;
mod qemu_error;
mod rights;
#[cfg(test)]
mod test_kernels;
mod thread_filter;
pub mod violation;
mod vm;
mod wait;

pub use allowance::Allowance;
pub use arch::MAX_VCPUS;
pub use config::{MAX_DEVICES, VmConfig};
pub use devices::virtio::mmio::TransportError;
pub use error::Error;
pub use exit::Exit;
pub use hypervisor::{Hypervisor, Qemu};
pub use kvm_error::KvmError;
pub use landlock::Landlock;
pub use loader::{InitramfsPart, LoadError};
pub use memory::{MAX_MEMORY, MEMORY_GRANULE, MIN_MEMORY, MemoryError};
pub use own_user::OwnUser;
pub use qemu::MAX_QEMU_DEVICES;
pub use qemu_error::QemuError;
pub use rights::ThreadRights;
pub use vm::{RunningVm, Vm};
