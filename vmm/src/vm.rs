//! A machine, from its parts to its end.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, VcpuFd, VmFd};
use linux_loader::cmdline::Cmdline;
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch::{self, Boot, BootError, DEVICE_IRQS, MAX_VCPUS, Ports, VcpuSetup};
use crate::console::Console;
use crate::devices::bus::MmioBus;
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::error::Error;
use crate::kick::{self, Kick};
use crate::kvm::KvmError;
use crate::loader::{self, InitramfsPart, Kernel, LoadError};
use crate::vcpu::Vcpu;
use crate::{kvm, memory};

/// The most virtio devices that a machine has: as many as there are interrupts for them.
pub const MAX_DEVICES: usize = DEVICE_IRQS.len();

/// How long the vCPUs' threads have for coming out of the guest. They are out within
/// milliseconds; a device's reset may take longer.
const STOP_LIMIT: Duration = Duration::from_secs(10);

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
        let VmConfig {
            vcpus: vcpu_count,
            memory: memory_size,
            kernel,
            initramfs,
            cmdline,
            console_log,
            devices,
        } = config;
        if !(1..=MAX_VCPUS).contains(&vcpu_count) {
            return Err(Error::Vcpus {
                requested: vcpu_count,
                max: MAX_VCPUS,
            });
        }
        if devices.len() > MAX_DEVICES {
            return Err(Error::Devices(devices.len()));
        }
        let cmdline = full_cmdline(&cmdline, devices.len())?;

        let kvm = open()?;
        let max = kvm.get_max_vcpus();
        if usize::from(vcpu_count) > max {
            return Err(Error::Vcpus {
                requested: vcpu_count,
                max: u8::try_from(max).unwrap_or(MAX_VCPUS),
            });
        }

        let memory = Arc::new(memory::create(memory_size)?);
        // The host's kernel spends most of making a VM waiting (for a thread of its own, and
        // for RCU). Memory is filled meanwhile.
        let (vm, loaded) = std::thread::scope(|scope| {
            let masked = kick::Masked::new();
            let vm = std::thread::Builder::new()
                .spawn_scoped(scope, || kvm.create_vm())
                .map_err(Error::host("starting a thread"));
            drop(masked);
            let loaded = load(&memory, memory_size, &kernel, &initramfs);
            let vm = vm.and_then(|thread| {
                // Nothing in the thread panics.
                let vm = thread
                    .join()
                    .unwrap_or(Err(kvm_ioctls::Error::new(libc::EIO)));
                vm.map_err(Error::host("creating a VM"))
            });
            (vm, loaded)
        });
        let (kernel, initramfs) = loaded?;
        let vm = vm?;
        let boot = Boot {
            memory_size,
            vcpus: vcpu_count,
            cmdline: &cmdline,
            initramfs,
        };
        boot.write(&memory).map_err(boot_error)?;
        add_memory(&vm, &memory)?;
        arch::disable_pmu(&vm).map_err(Error::host("leaving performance counters out"))?;
        arch::create_irqchip(&vm).map_err(Error::host("creating the interrupt controllers"))?;
        let setup = VcpuSetup::new(&kvm, vcpu_count).map_err(Error::host("asking for CPUID"))?;
        let mut vcpus = Vec::new();
        for id in 0..vcpu_count {
            let vcpu = vm
                .create_vcpu(id.into())
                .map_err(Error::host("creating a vCPU"))?;
            setup
                .configure(&vcpu, id, kernel.entry)
                .map_err(Error::host("setting a vCPU up"))?;
            vcpus.push(vcpu);
        }

        let mut transports = Vec::new();
        for (index, device) in devices.into_iter().enumerate() {
            let transport = MmioTransport::new(device, Arc::clone(&memory))
                .map_err(|source| Error::Device { index, source })?;
            connect(&vm, index, &transport).map_err(Error::host("connecting a device"))?;
            transports.push(transport);
        }
        let (console, console_writer) = Console::new(console_log);
        let ports =
            Ports::new(&vm, console_writer).map_err(Error::host("creating the serial port"))?;
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::host("an event"))?;

        Ok(Vm {
            vcpus,
            machine: Arc::new(Machine {
                ports,
                mmio: MmioBus::new(transports),
                console,
                end: Mutex::new(End::default()),
                ended: AtomicBool::new(false),
                event,
                threads: Mutex::new(0),
                thread_ended: Condvar::new(),
                _vm: vm,
                _memory: memory,
            }),
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
        self.machine.end_state().kicks = kicks.clone();

        // Stops and joins what has been started if a later thread can't be.
        let mut running = RunningVm {
            machine: Arc::clone(&self.machine),
            threads: Vec::new(),
        };
        let _masked = kick::Masked::new();
        for (id, (fd, kick)) in self.vcpus.into_iter().zip(kicks).enumerate() {
            let vcpu = Vcpu::new(fd, kick, Arc::clone(&self.machine));
            *self.machine.threads() += 1;
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{id}"))
                .spawn(move || vcpu.run());
            match thread {
                Ok(thread) => running.threads.push(thread),
                Err(error) => {
                    self.machine.thread_done();
                    return Err(Error::host("starting a vCPU's thread")(error));
                }
            }
        }
        Ok(running)
    }
}

/// A machine that runs, or has ended by itself.
///
/// Dropping it stops it.
pub struct RunningVm {
    machine: Arc<Machine>,
    threads: Vec<JoinHandle<()>>,
}

impl RunningVm {
    /// Readable once the machine has ended by itself or failed, or was stopped.
    pub fn exit_event(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the event's, which lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.machine.event.as_raw_fd()) }
    }

    /// The last lines of the serial console, without control characters.
    pub fn console_tail(&self) -> String {
        self.machine.console_tail()
    }

    /// Stops it, wherever the guest is. Does nothing if it has ended already.
    pub fn stop(&mut self) {
        self.machine.end(Ok(Exit::Stopped));
    }

    /// Says how it ended; stops it if it hasn't. To wait for it to end by itself, wait for
    /// [`exit_event`](Self::exit_event) first.
    ///
    /// # Errors
    ///
    /// What made the machine fail, or [`Error::StopTimeout`].
    pub fn wait(mut self) -> Result<Exit, Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Exit, Error> {
        self.stop();
        if !self.machine.threads_ended(STOP_LIMIT) {
            // They keep what they need; nothing can be done about them.
            self.threads.clear();
            return Err(Error::StopTimeout);
        }
        for thread in self.threads.drain(..) {
            // One that panicked has recorded that as the machine's end.
            let _ = thread.join();
        }
        self.machine.mmio.reset();
        let outcome = self.machine.end_state().outcome.take();
        outcome.unwrap_or(Ok(Exit::Stopped))
    }
}

impl Drop for RunningVm {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// What the vCPUs' threads share.
///
/// Fields are dropped in their order: guest memory after the VM that has it mapped.
pub(crate) struct Machine {
    pub(crate) ports: Ports,
    pub(crate) mmio: MmioBus,
    console: Arc<Console>,
    end: Mutex<End>,
    ended: AtomicBool,
    event: EventFd,
    /// How many vCPU threads there are.
    threads: Mutex<usize>,
    thread_ended: Condvar,
    _vm: VmFd,
    _memory: Arc<GuestMemoryMmap>,
}

/// How the machine ended, and what makes the vCPUs see that it has.
#[derive(Default)]
struct End {
    outcome: Option<Result<Exit, Error>>,
    kicks: Vec<Arc<Kick>>,
}

impl Machine {
    /// Ends the machine. The first to say how it ended is believed.
    pub(crate) fn end(&self, outcome: Result<Exit, Error>) {
        if self.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        let mut end = self.end_state();
        end.outcome = Some(outcome);
        for kick in &end.kicks {
            kick.kick();
        }
        // The counter can't be near its maximum.
        let _ = self.event.write(1);
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn console_tail(&self) -> String {
        self.console.tail()
    }

    /// A vCPU's thread is through.
    pub(crate) fn thread_done(&self) {
        *self.threads() -= 1;
        self.thread_ended.notify_all();
    }

    /// Waits for the vCPUs' threads to be through, at most for `limit`.
    fn threads_ended(&self, limit: Duration) -> bool {
        let (threads, _) = self
            .thread_ended
            .wait_timeout_while(self.threads(), limit, |threads| *threads > 0)
            .unwrap_or_else(|e| e.into_inner());
        *threads == 0
    }

    fn threads(&self) -> MutexGuard<'_, usize> {
        self.threads.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn end_state(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(|e| e.into_inner())
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

/// Puts the kernel and the initramfs, whose place and length it gives, into memory.
fn load(
    memory: &GuestMemoryMmap,
    memory_size: u64,
    kernel: &File,
    initramfs: &[InitramfsPart],
) -> Result<(Kernel, (GuestAddress, u64)), LoadError> {
    let kernel = loader::load_kernel(memory, memory_size, kernel)?;
    let initramfs = loader::load_initramfs(memory, memory_size, kernel.end, initramfs)?;
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
