//! What a machine is made of, and what runs it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::BorrowedFd;

use linux_loader::cmdline::Cmdline;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::arch::{self, DEVICE_IRQS, MAX_VCPUS};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::net::{self, Net};
use crate::error::Error;
use crate::kvm;
use crate::loader::{self, InitramfsPart, Kernel, LoadError};
use crate::qemu::{self, Qemu};

/// The most virtio devices that a machine has: as many as there are interrupts for them.
/// Under QEMU it is [`MAX_QEMU_DEVICES`](crate::MAX_QEMU_DEVICES).
pub const MAX_DEVICES: usize = DEVICE_IRQS.len();

/// What runs a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hypervisor {
    /// The host's KVM, and this process as its monitor.
    Kvm,
    /// QEMU, which emulates the processor: a jailed child of this process. Devices stay here
    /// and reach it over vhost-user.
    Qemu(Qemu),
}

/// What a machine is made of.
pub struct VmConfig {
    /// What runs it.
    pub hypervisor: Hypervisor,
    /// What QEMU's process is called in lists of processes, if it is made of letters, digits
    /// and `-_.+`.
    pub name: String,
    /// How many vCPUs: 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Bytes of memory: at least [`MIN_MEMORY`](crate::MIN_MEMORY), a multiple of 4 KiB.
    pub memory: u64,
    /// The kernel: an ELF `vmlinux`.
    pub kernel: File,
    /// The initramfs, in parts that are laid end to end.
    pub initramfs: Vec<InitramfsPart>,
    /// The kernel's command line. The monitor adds a `virtio_mmio.device` for each device, and
    /// what the hypervisor needs.
    pub cmdline: String,
    /// Where the serial console's output goes, line by line. What a pipe doesn't take at once
    /// is lost: the guest never waits for it.
    pub console_log: Option<File>,
    /// The virtio devices, at most [`MAX_DEVICES`]. The guest knows each by its place here: the
    /// first is `virtio-mmio.0` on its platform bus.
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// How many network devices can be plugged in while it runs
    /// ([`RunningVm::plug_net`]). They count as devices.
    pub nic_slots: usize,
    /// Whether the guest can run virtual machines of its own.
    pub nested: bool,
}

impl VmConfig {
    /// Refuses what no hypervisor runs.
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

    /// Puts the kernel and the initramfs into memory. Gives the latter's place and length.
    pub(crate) fn load(
        &self,
        memory: &GuestMemoryMmap,
    ) -> Result<(Kernel, (GuestAddress, u64)), LoadError> {
        let kernel = loader::load_kernel(memory, self.memory, &self.kernel)?;
        let initramfs = loader::load_initramfs(memory, self.memory, kernel.end, &self.initramfs)?;
        Ok((kernel, initramfs))
    }
}

/// The command line with the hypervisor's words and devices added to it, where the kernel's
/// parameters end. A device is the address and the size of its registers, and its interrupt.
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

/// A machine that is ready to start.
pub struct Vm {
    made: Made,
    queue_pairs: usize,
}

enum Made {
    Kvm(kvm::machine::Made),
    Qemu(qemu::Made),
}

impl Vm {
    /// Makes a machine: its memory with the kernel in it, its devices, its vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is left behind.
    pub fn new(config: VmConfig) -> Result<Vm, Error> {
        let queue_pairs = net::queue_pairs(config.vcpus);
        let made = match config.hypervisor.clone() {
            Hypervisor::Kvm => Made::Kvm(kvm::machine::Made::new(config)?),
            Hypervisor::Qemu(qemu) => Made::Qemu(qemu::Made::new(qemu, config)?),
        };
        Ok(Vm { made, queue_pairs })
    }

    /// Lets it run: each vCPU in a thread of its own, or QEMU as a child process. That is killed
    /// when the calling thread ends, which therefore must live as long as the machine.
    ///
    /// # Errors
    ///
    /// When a thread or the child can't be made; nothing runs then.
    pub fn start(self) -> Result<RunningVm, Error> {
        Ok(RunningVm {
            running: match self.made {
                Made::Kvm(made) => Running::Kvm(made.start()?),
                Made::Qemu(made) => Running::Qemu(made.start()?),
            },
            queue_pairs: self.queue_pairs,
        })
    }
}

/// How a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered it off, through the exit port.
    PowerOff,
    /// The guest reset it. Where a guest can't power off, this is how it ends.
    Reset,
    /// [`RunningVm::stop`] ended it.
    Stopped,
}

/// A machine that runs, or has ended by itself.
///
/// Dropping it stops it.
pub struct RunningVm {
    running: Running,
    queue_pairs: usize,
}

enum Running {
    Kvm(kvm::running::Running),
    Qemu(qemu::Running),
}

impl RunningVm {
    /// Readable once the machine has ended by itself or failed, or was stopped.
    pub fn exit_event(&self) -> BorrowedFd<'_> {
        match &self.running {
            Running::Kvm(machine) => machine.exit_event(),
            Running::Qemu(machine) => machine.exit_event(),
        }
    }

    /// The last lines of the serial console, without control characters.
    pub fn console_tail(&self) -> String {
        match &self.running {
            Running::Kvm(machine) => machine.console_tail(),
            Running::Qemu(machine) => machine.console_tail(),
        }
    }

    /// Plugs a network device in. Gives the number N of the guest's `virtio-mmio.N` that has
    /// become that device: the guest sees it once it binds that to its driver, which it may have
    /// done already where QEMU runs it.
    ///
    /// Under QEMU the guest learns neither the device's address nor its MTU by itself: it must be
    /// told, and set them.
    ///
    /// # Errors
    ///
    /// [`Error::NoSlot`] if there are as many as [`VmConfig::nic_slots`] already,
    /// [`Error::QueuePairs`] unless the device has as many pairs of queues as
    /// [`queue_pairs`](net::queue_pairs) says for the machine's vCPUs; and what the host refuses.
    pub fn plug_net(&self, device: Net) -> Result<usize, Error> {
        let found = device.pairs();
        if found != self.queue_pairs {
            return Err(Error::QueuePairs {
                found,
                wanted: self.queue_pairs,
            });
        }
        match &self.running {
            Running::Kvm(machine) => machine.plug(Box::new(device)),
            Running::Qemu(machine) => machine.plug_net(device),
        }
    }

    /// Takes a network device out again, and lets go of its tap. The guest should have let the
    /// driver go before; it has to, and bind it anew, before another device in this slot works.
    /// Does nothing if there is none at `slot`, a number that [`plug_net`](Self::plug_net) gave.
    pub fn unplug_net(&self, slot: usize) {
        match &self.running {
            Running::Kvm(machine) => machine.unplug(slot),
            Running::Qemu(machine) => machine.unplug_net(slot),
        }
    }

    /// Makes its vCPUs stand still, until [`resume`](Self::resume). Its devices go on with what
    /// they have been given. Does nothing to a machine that is paused or has ended.
    ///
    /// # Errors
    ///
    /// When a vCPU doesn't come to a stand within seconds, or QEMU can't be signalled; the
    /// machine goes on then.
    pub fn pause(&self) -> Result<(), Error> {
        match &self.running {
            Running::Kvm(machine) => machine.pause(),
            Running::Qemu(machine) => machine.pause(),
        }
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    ///
    /// When QEMU can't be signalled.
    pub fn resume(&self) -> Result<(), Error> {
        match &self.running {
            Running::Kvm(machine) => {
                machine.resume();
                Ok(())
            }
            Running::Qemu(machine) => machine.resume(),
        }
    }

    /// Stops it, wherever the guest is. Does nothing if it has ended already.
    pub fn stop(&mut self) {
        match &mut self.running {
            Running::Kvm(machine) => machine.stop(),
            Running::Qemu(machine) => machine.stop(),
        }
    }

    /// Says how it ended; stops it if it hasn't. To wait for it to end by itself, wait for
    /// [`exit_event`](Self::exit_event) first.
    ///
    /// # Errors
    ///
    /// What made the machine fail, or [`Error::StopTimeout`].
    pub fn wait(self) -> Result<Exit, Error> {
        match self.running {
            Running::Kvm(machine) => machine.wait(),
            Running::Qemu(machine) => machine.wait(),
        }
    }
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
