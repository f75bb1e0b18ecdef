//! Makes a machine for KVM from its parts, and lets it run.

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::kick::{self, Kick};
use super::running::{Machine, Running};
use super::vcpu::Vcpu;
use super::{self as kvm, KvmError};
use crate::arch::{self, Boot, DEVICE_IRQS, MAX_VCPUS, MMIO_DEVICE_SIZE, Ports, VcpuSetup};
use crate::console::Console;
use crate::devices::bus::MmioBus;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::error::Error;
use crate::loader::LoadError;
use crate::memory;
use crate::vm::{MAX_DEVICES, VmConfig, full_cmdline};

/// A machine that is ready to start.
pub(crate) struct Made {
    vcpus: Vec<VcpuFd>,
    machine: Arc<Machine>,
}

impl Made {
    /// Makes a machine: its memory with the kernel in it, its devices, its vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is left behind.
    pub(crate) fn new(config: VmConfig) -> Result<Made, Error> {
        Made::with_kvm(kvm::check, config)
    }

    /// As [`new`](Self::new), with what `open` gives as KVM.
    fn with_kvm(
        open: impl FnOnce() -> Result<Kvm, KvmError>,
        config: VmConfig,
    ) -> Result<Made, Error> {
        config.check(MAX_DEVICES)?;
        let places = config.devices.len() + config.nic_slots;
        let cmdline = full_cmdline(&config.cmdline, "", (0..places).map(place))?;

        let kvm = open()?;
        if config.nested {
            kvm::check_nested(&kvm)?;
        }
        let memory = Arc::new(memory::create(config.memory)?);
        let (vm, (kernel, initramfs)) = while_creating_vm(&kvm, || config.load(&memory))?;
        let boot = Boot {
            memory_size: config.memory,
            vcpus: config.vcpus,
            cmdline: &cmdline,
            initramfs,
            timer_pin: Boot::KVM_TIMER_PIN,
        };
        boot.write(&memory)?;
        add_memory(&vm, &memory)?;
        arch::disable_pmu(&vm).map_err(Error::host("leaving performance counters out"))?;
        arch::create_irqchip(&vm).map_err(Error::host("creating the interrupt controllers"))?;
        let vcpus = create_vcpus(&kvm, &vm, config.vcpus, config.nested, kernel.entry)?;
        let transports = attach(&vm, &memory, config.devices)?;
        let first_nic = transports.len();
        let mmio = MmioBus::new(transports, config.nic_slots);
        let (console, console_writer) = Console::new(config.console_log);
        let ports =
            Ports::new(&vm, console_writer).map_err(Error::host("creating the serial port"))?;
        let machine = Machine::new(ports, mmio, first_nic, console, vm, memory)
            .map_err(Error::host("creating an event"))?;
        Ok(Made {
            vcpus,
            machine: Arc::new(machine),
        })
    }

    /// Lets it run, each vCPU in a thread of its own.
    ///
    /// # Errors
    ///
    /// When a thread can't be made; nothing runs then.
    pub(crate) fn start(self) -> Result<Running, Error> {
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
        let mut running = Running::new(Arc::clone(&self.machine));
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

/// The address and size of the registers of device `index`, which is below [`MAX_DEVICES`], and
/// its interrupt.
fn place(index: usize) -> (GuestAddress, u64, u32) {
    let offset = index as u64 * MMIO_DEVICE_SIZE;
    (
        GuestAddress(arch::MMIO_START + offset),
        MMIO_DEVICE_SIZE,
        DEVICE_IRQS[index],
    )
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
    nested: bool,
    entry: GuestAddress,
) -> Result<Vec<VcpuFd>, Error> {
    let max = kvm.get_max_vcpus();
    if usize::from(count) > max {
        return Err(Error::Vcpus {
            requested: count,
            max: u8::try_from(max).unwrap_or(MAX_VCPUS),
        });
    }
    let setup = VcpuSetup::new(kvm, count, nested).map_err(Error::host("asking for CPUID"))?;
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
pub(super) fn connect(
    vm: &VmFd,
    index: usize,
    transport: &MmioTransport,
) -> Result<(), kvm_ioctls::Error> {
    let (notify, irq) = wires(index);
    for (queue, event) in transport.notify_events().enumerate() {
        vm.register_ioevent(event, &notify, queue as u32)?;
    }
    vm.register_irqfd(transport.irq(), irq)
}

/// Undoes [`connect`], or what it did before it failed.
pub(super) fn disconnect(vm: &VmFd, index: usize, transport: &MmioTransport) {
    let (notify, irq) = wires(index);
    // KVM refuses only what isn't connected.
    for (queue, event) in transport.notify_events().enumerate() {
        let _ = vm.unregister_ioevent(event, &notify, queue as u32);
    }
    let _ = vm.unregister_irqfd(transport.irq(), irq);
}

/// Where device `index` is notified, and its interrupt.
fn wires(index: usize) -> (IoEventAddress, u32) {
    let (address, _, irq) = place(index);
    (
        IoEventAddress::Mmio(address.raw_value() + QUEUE_NOTIFY),
        irq,
    )
}

#[cfg(test)]
mod tests;
