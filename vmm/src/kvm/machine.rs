//! Makes a machine for KVM from its parts, and starts it.

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::check;
use super::kick::{self, Kick};
use super::running::RunningKvm;
use super::shared::Machine;
use super::vcpu::Vcpu;
use super::wires::{connect, place};
use crate::arch::{self, Boot, MAX_VCPUS, Ports, VcpuSetup};
use crate::config::{MAX_DEVICES, VmConfig, full_cmdline};
use crate::console::Console;
use crate::devices::bus::MmioBus;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mmio::MmioTransport;
use crate::error::Error;
use crate::kvm_error::KvmError;
use crate::loader::LoadError;
use crate::memory;
use crate::phase;

/// A machine that is ready to start.
pub(crate) struct KvmMachine {
    vcpus: Vec<VcpuFd>,
    machine: Arc<Machine>,
}

impl KvmMachine {
    /// Makes a machine: its memory with the kernel in it, its devices and its vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing is left behind.
    pub(crate) fn new(config: VmConfig) -> Result<KvmMachine, Error> {
        KvmMachine::with_kvm(check::check, config)
    }

    /// Does the same as [`new`](Self::new), with the KVM that `open` returns.
    fn with_kvm(
        open: impl FnOnce() -> Result<Kvm, KvmError>,
        config: VmConfig,
    ) -> Result<KvmMachine, Error> {
        config.check(MAX_DEVICES)?;
        let places = config.devices.len() + config.nic_slots;
        let cmdline = full_cmdline(&config.cmdline, "", (0..places).map(place))?;

        let kvm = open()?;
        if config.nested {
            check::check_nested(&kvm)?;
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
        phase::ended("memory");
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
        Ok(KvmMachine {
            vcpus,
            machine: Arc::new(machine),
        })
    }

    /// Starts it, with a thread for each vCPU.
    ///
    /// # Errors
    ///
    /// If a thread can't be created; nothing runs then.
    pub(crate) fn start(self) -> Result<RunningKvm, Error> {
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

        // Stops and joins the threads that have been started if a later one can't be.
        let mut running = RunningKvm::new(Arc::clone(&self.machine));
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

/// Creates a VM, and does `work` in the meantime: the host's kernel spends most of that time
/// waiting, for a thread that it creates and for RCU.
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
        // SAFETY: the range is that of a mapping that the machine keeps longer than the VM.
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

#[cfg(test)]
mod tests;
