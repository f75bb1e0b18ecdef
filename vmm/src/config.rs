//! What a machine consists of.

use std::ffi::CString;
use std::fs::File;

use linux_loader::cmdline::Cmdline;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::arch::{self, DEVICE_IRQS, MAX_VCPUS};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::throttle::Throttle;
use crate::error::Error;
use crate::hypervisor::Hypervisor;
use crate::loader::{self, InitramfsPart, Kernel, LoadError};
use crate::own_user::OwnUser;

/// The most virtio devices that a machine can have: as many as there are interrupts for them. Under
/// QEMU it is [`MAX_QEMU_DEVICES`](crate::MAX_QEMU_DEVICES).
pub const MAX_DEVICES: usize = DEVICE_IRQS.len();

/// What a machine consists of.
pub struct VmConfig {
    /// What runs it.
    pub hypervisor: Hypervisor,
    /// The name of QEMU's process in process lists, if it is made of letters, digits and `-_.+`.
    pub name: String,
    /// The user and the group of the monitor's process and of QEMU's.
    pub user: OwnUser,
    /// The number of vCPUs: 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Bytes of memory: at least [`MIN_MEMORY`](crate::MIN_MEMORY), a multiple of 4 KiB.
    pub memory: u64,
    /// The kernel: an ELF `vmlinux`.
    pub kernel: File,
    /// The initramfs, in parts that are placed end to end.
    pub initramfs: Vec<InitramfsPart>,
    /// The kernel's command line. The monitor adds a `virtio_mmio.device` for each device, and
    /// what the hypervisor needs.
    pub cmdline: String,
    /// Where the serial console's output goes, line by line, all of it: a limit is for whoever reads
    /// it to set. What a pipe doesn't accept at once is lost: the guest never waits for it.
    pub console_log: Option<File>,
    /// The virtio devices, at most [`MAX_DEVICES`]. The guest knows each by its position here: the
    /// first is `virtio-mmio.0` on its platform bus.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// How many network devices can be plugged in while it runs ([`RunningVm::plug_net`](crate::RunningVm::plug_net)). They
    /// count as devices.
    pub nic_slots: usize,
    /// What the guest may receive and send through its network devices together.
    pub nic_throttles: [Throttle; 2],
    /// Whether the guest can run virtual machines of its own.
    pub nested: bool,
}

impl VmConfig {
    /// Refuses what no hypervisor can run.
    pub(crate) fn check(&self, max_devices: usize) -> Result<(), Error> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(Error::Vcpus {
                requested: self.vcpus,
                max: MAX_VCPUS,
            });
        }
        let devices = self.devices.len().saturating_add(self.nic_slots);
        if devices > max_devices {
            return Err(Error::Devices {
                requested: devices,
                max: max_devices,
            });
        }
        Ok(())
    }

    /// Loads the kernel and the initramfs into memory. Returns the initramfs's address and length.
    pub(crate) fn load(
        &self,
        memory: &GuestMemoryMmap,
    ) -> Result<(Kernel, (GuestAddress, u64)), LoadError> {
        let kernel = loader::load_kernel(memory, self.memory, &self.kernel)?;
        let initramfs = loader::load_initramfs(memory, self.memory, kernel.end, &self.initramfs)?;
        Ok((kernel, initramfs))
    }
}

/// Returns the command line with the hypervisor's words and devices inserted where the kernel's
/// parameters end. A device is given by the address and the size of its registers, and its
/// interrupt.
pub(crate) fn full_cmdline(
    cmdline: &str,
    words: &str,
    devices: impl Iterator<Item = (GuestAddress, u64, u32)>,
) -> Result<CString, Error> {
    let mut full = Cmdline::try_from(cmdline, arch::CMDLINE_CAPACITY).map_err(Error::Cmdline)?;
    if !words.is_empty() {
        full.insert_str(words).map_err(Error::Cmdline)?;
    }
    for (address, size, irq) in devices {
        full.add_virtio_mmio_device(size, address, irq, None)
            .map_err(Error::Cmdline)?;
    }
    full.as_cstring().map_err(Error::Cmdline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_on_the_command_line_before_inits_words() {
        let devices = [
            (GuestAddress(0xd000_0000), 4096, 5),
            (GuestAddress(0xd000_1000), 512, 6),
        ];
        let line = full_cmdline("quiet -- --flag", "reboot=t", devices.into_iter()).unwrap();
        assert_eq!(
            line.to_str().unwrap(),
            "quiet reboot=t virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=512@0xd0001000:6 -- --flag"
        );
    }
}
