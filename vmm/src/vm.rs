//! Makes a machine from its parts, and lets it run.

use std::fs::File;
use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use linux_loader::cmdline::Cmdline;
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use crate::arch::{self, Boot, BootError, DEVICE_IRQS, MAX_VCPUS, Ports, VcpuSetup};
use crate::console::Console;
use crate::devices::bus::MmioBus;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::error::Error;
use crate::kick::{self, Kick};
use crate::kvm::{self, KvmError};
use crate::loader::{self, InitramfsPart, Kernel, LoadError};
use crate::machine::{Machine, RunningVm};
use crate::memory;
use crate::vcpu::Vcpu;

/// The most virtio devices that a machine has: as many as there are interrupts for them.
pub const MAX_DEVICES: usize = DEVICE_IRQS.len();

/// What a machine is made of.
pub struct VmConfig {
    /// How many vCPUs: 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Bytes of memory: at least [`MIN_MEMORY`](crate::MIN_MEMORY), a multiple of 4 KiB.
    pub memory: u64,
    /// The kernel: an ELF `vmlinux`.
    pub kernel: File,
    /// The initramfs, in parts that are laid end to end.
    pub initramfs: Vec<InitramfsPart>,
    /// The kernel's command line. The monitor adds a `virtio_mmio.device` for each device.
    pub cmdline: String,
    /// Where the serial console's output goes, line by line. What a pipe doesn't take at once
    /// is lost: the guest never waits for it.
    pub console_log: Option<File>,
    /// The virtio devices, at most [`MAX_DEVICES`].
    pub devices: Vec<Box<dyn VirtioDevice>>,
}

/// A machine that is ready to start.
pub struct Vm {
    vcpus: Vec<VcpuFd>,
    machine: Arc<Machine>,
}

impl Vm {
    /// Makes a machine: its memory with the kernel in it, its devices, its vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is left behind.
    pub fn new(config: VmConfig) -> Result<Vm, Error> {
        Vm::with_kvm(kvm::check, config)
    }

    /// As [`new`](Self::new), with what `open` gives as KVM.
    fn with_kvm(
        open: impl FnOnce() -> Result<Kvm, KvmError>,
        config: VmConfig,
    ) -> Result<Vm, Error> {
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            return Err(Error::Vcpus {
                requested: config.vcpus,
                max: MAX_VCPUS,
            });
        }
        if config.devices.len() > MAX_DEVICES {
            return Err(Error::Devices(config.devices.len()));
        }
        let cmdline = full_cmdline(&config.cmdline, config.devices.len())?;

        let kvm = open()?;
        let memory = Arc::new(memory::create(config.memory)?);
        let (vm, (kernel, initramfs)) =
            while_creating_vm(&kvm, || load(&memory, config.memory, &config))?;
        let boot = Boot {
            memory_size: config.memory,
            vcpus: config.vcpus,
            cmdline: &cmdline,
            initramfs,
        };
        boot.write(&memory).map_err(boot_error)?;
        add_memory(&vm, &memory)?;
        arch::disable_pmu(&vm).map_err(Error::host("leaving performance counters out"))?;
        arch::create_irqchip(&vm).map_err(Error::host("creating the interrupt controllers"))?;
        let vcpus = create_vcpus(&kvm, &vm, config.vcpus, kernel.entry)?;
        let transports = attach(&vm, &memory, config.devices)?;
        let (console, console_writer) = Console::new(config.console_log);
        let ports =
            Ports::new(&vm, console_writer).map_err(Error::host("creating the serial port"))?;
        let machine = Machine::new(ports, MmioBus::new(transports), console, vm, memory)
            .map_err(Error::host("creating an event"))?;
        Ok(Vm {
            vcpus,
            machine: Arc::new(machine),
        })
    }

    /// Lets it run, each vCPU in a thread of its own.
    ///
    /// # Errors
    ///
    /// When a thread can't be made; nothing runs then.
    pub fn start(self) -> Result<RunningVm, Error> {
        let no_signal = || io::Error::other("every real-time signal is in use");
        kick::signal()
            .ok_or_else(no_signal)
            .map_err(Error::host("choosing a signal for vCPU threads"))?;

        let mut kicks = Vec::new();
        for vcpu in &self.vcpus {
            kicks.push(Arc::new(
                Kick::new(vcpu).map_err(Error::host("mapping a vCPU's shared page"))?,
            ));
        }
        self.machine.set_kicks(kicks.clone());

        // Stops and joins what has been started if a later thread can't be.
        let mut running = RunningVm::new(Arc::clone(&self.machine));
        let _masked = kick::Masked::new();
        for (id, (fd, kick)) in self.vcpus.into_iter().zip(kicks).enumerate() {
            let vcpu = Vcpu::new(fd, kick, Arc::clone(&self.machine));
            running
                .spawn(format!("vcpu{id}"), vcpu)
                .map_err(Error::host("starting a vCPU's thread"))?;
        }
        Ok(running)
    }
}

/// The command line with the devices added to it, where the kernel's parameters end.
fn full_cmdline(cmdline: &str, devices: usize) -> Result<std::ffi::CString, Error> {
    let mut full = Cmdline::try_from(cmdline, arch::CMDLINE_CAPACITY).map_err(Error::Cmdline)?;
    for index in 0..devices {
        let (address, irq) = slot(index);
        full.add_virtio_mmio_device(arch::MMIO_DEVICE_SIZE, address, irq, None)
            .map_err(Error::Cmdline)?;
    }
    full.as_cstring().map_err(Error::Cmdline)
}

/// The address and the interrupt of device `index`, which is below [`MAX_DEVICES`].
fn slot(index: usize) -> (GuestAddress, u32) {
    let offset = index as u64 * arch::MMIO_DEVICE_SIZE;
    (GuestAddress(arch::MMIO_START + offset), DEVICE_IRQS[index])
}

/// Creates a VM, and does `work` meanwhile: the host's kernel spends most of the time waiting,
/// for a thread that it makes and for RCU.
fn while_creating_vm<T>(
    kvm: &Kvm,
    work: impl FnOnce() -> Result<T, LoadError>,
) -> Result<(VmFd, T), Error> {
    std::thread::scope(|scope| {
        let masked = kick::Masked::new();
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, || kvm.create_vm())
            .map_err(Error::host("starting a thread"))?;
        drop(masked);
        let done = work()?;
        // Nothing in the thread panics.
        let vm = thread
            .join()
            .unwrap_or(Err(kvm_ioctls::Error::new(libc::EIO)))
            .map_err(Error::host("creating a VM"))?;
        Ok((vm, done))
    })
}

/// Puts the kernel and the initramfs into memory. Gives the latter's place and length.
fn load(
    memory: &GuestMemoryMmap,
    memory_size: u64,
    config: &VmConfig,
) -> Result<(Kernel, (GuestAddress, u64)), LoadError> {
    let kernel = loader::load_kernel(memory, memory_size, &config.kernel)?;
    let initramfs = loader::load_initramfs(memory, memory_size, kernel.end, &config.initramfs)?;
    Ok((kernel, initramfs))
}

/// Gives guest memory to the VM.
fn add_memory(vm: &VmFd, memory: &GuestMemoryMmap) -> Result<(), Error> {
    for (slot, region) in memory.iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is that of a mapping that the machine keeps for longer than the VM.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(Error::host("giving memory to the VM"))?;
    }
    Ok(())
}

/// Creates the vCPUs, the first of them at the kernel's entry.
fn create_vcpus(
    kvm: &Kvm,
    vm: &VmFd,
    count: u8,
    entry: GuestAddress,
) -> Result<Vec<VcpuFd>, Error> {
    let max = kvm.get_max_vcpus();
    if usize::from(count) > max {
        return Err(Error::Vcpus {
            requested: count,
            max: u8::try_from(max).unwrap_or(MAX_VCPUS),
        });
    }
    let setup = VcpuSetup::new(kvm, count).map_err(Error::host("asking for CPUID"))?;
    (0..count)
        .map(|id| {
            let vcpu = vm
                .create_vcpu(id.into())
                .map_err(Error::host("creating a vCPU"))?;
            setup
                .configure(&vcpu, id, entry)
                .map_err(Error::host("setting a vCPU up"))?;
            Ok(vcpu)
        })
        .collect()
}

/// Puts the devices behind their registers.
fn attach(
    vm: &VmFd,
    memory: &Arc<GuestMemoryMmap>,
    devices: Vec<Box<dyn VirtioDevice>>,
) -> Result<Vec<MmioTransport>, Error> {
    devices
        .into_iter()
        .enumerate()
        .map(|(index, device)| {
            let transport = MmioTransport::new(device, Arc::clone(memory))
                .map_err(|source| Error::Device { index, source })?;
            connect(vm, index, &transport).map_err(Error::host("connecting a device"))?;
            Ok(transport)
        })
        .collect()
}

/// Lets KVM carry a device's notifications and interrupts.
fn connect(vm: &VmFd, index: usize, transport: &MmioTransport) -> Result<(), kvm_ioctls::Error> {
    let (address, irq) = slot(index);
    let notify = IoEventAddress::Mmio(address.raw_value() + QUEUE_NOTIFY);
    for (queue, event) in transport.notify_events().enumerate() {
        vm.register_ioevent(event, &notify, queue as u32)?;
    }
    vm.register_irqfd(transport.irq(), irq)
}

fn boot_error(error: BootError) -> Error {
    Error::Boot(match error {
        BootError::Memory(error) => io::Error::other(error),
        BootError::Random(error) => error,
    })
}

#[cfg(test)]
mod tests;
