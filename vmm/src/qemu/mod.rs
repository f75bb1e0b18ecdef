//! Machines whose processor QEMU emulates (its TCG), for hosts without a usable KVM.
//!
//! QEMU is a child of this process, in a jail ([`jail`]), and ends when this process does, however
//! that ends. Guest memory is a sealed file of this process, with the kernel in it as under KVM,
//! and QEMU maps it; instead of a BIOS there is a ROM that enters the kernel ([`boot_rom`]). The
//! serial console comes through a pipe; the virtio devices stay in this process and are reached
//! over vhost-user. The guest powers off through the same port as under KVM: QEMU's
//! `isa-debug-exit` turns what is written there into an exit status.

mod ask;
mod binary;
mod boot_rom;
mod command;
mod door;
mod filter;
mod jail;
mod machine;
mod root;
mod running;
mod shared;
#[cfg(test)]
mod tests;
mod tsc;
mod version;
mod watch;

pub use crate::hypervisor::{DEFAULT_PATH, OLDEST, Version};
pub use command::TRANSLATIONS;
pub use machine::MAX_QEMU_DEVICES;
pub(crate) use machine::QemuMachine;
pub(crate) use running::RunningQemu;
