//! Makes a machine for QEMU from its parts, and starts it.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::ask::Question;
use super::command::{self, Arguments, DeviceKind};
use super::door::Doors;
use super::running::{NicSlots, RunningQemu};
use super::shared::Shared;
use super::watch::Watch;
use super::{boot_rom, jail, root, tsc};
use crate::arch::Boot;
use crate::child::Child;
use crate::config::{VmConfig, full_cmdline};
use crate::console::{Console, ConsoleWriter};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::net::{self, NetSlot};
use crate::devices::virtio::vhost_user::{self, Connection, Memory, Socket};
use crate::end::{End, Threads};
use crate::error::{CONFINING, Error};
use crate::hypervisor::Qemu;
use crate::memory;
use crate::own_user::OwnUser;

/// The most virtio devices that a machine under QEMU can have: its microvm machine has places for
/// that many.
pub const MAX_QEMU_DEVICES: usize = 8;

// The microvm machine's virtio-mmio devices: addresses, size of the registers, interrupts.
const MMIO_START: u64 = 0xfeb0_0000;
const MMIO_DEVICE_SIZE: u64 = 512;
const FIRST_IRQ: u32 = 5;

/// Additions to the kernel's command line. Without a keyboard controller it resets by a triple
/// fault. It leaves the lock prefixes in its code: they cost an emulated processor nothing, while
/// removing them invalidates the translations of that code. On a busy host it would take a timer's
/// late interrupt for a broken timer, and panic.
const CMDLINE: &str = "reboot=t noreplace-smp no_timer_check";

/// With one processor its timer is a PC's, which needn't be calibrated: that takes a quarter of a
/// second. With several, each needs its own.
const ONE_VCPU: &str = " nolapic_timer";

/// Returns the additions to the kernel's command line for a machine of `vcpus`, whose time-stamp
/// counters are the host's and run at `tsc` kHz.
pub(super) fn words(vcpus: u8, tsc: Option<u64>) -> String {
    let mut words = CMDLINE.to_owned();
    if vcpus == 1 {
        words += ONE_VCPU;
    }
    if let Some(khz) = tsc {
        words += &format!(" tsc=reliable tsc_early_khz={khz}");
    }
    words
}

/// A machine that is ready to start.
pub(crate) struct QemuMachine {
    qemu: Qemu,
    binary: File,
    /// The pending question what its loader loads.
    libraries: Question,
    name: String,
    user: OwnUser,
    vcpus: u8,
    nested: bool,
    memory_size: u64,
    memory: Arc<GuestMemoryMmap>,
    rom: File,
    devices: Vec<Box<dyn VirtioDevice>>,
    nics: NicSlots,
    console: Arc<Console>,
    console_writer: ConsoleWriter,
}

impl QemuMachine {
    pub(crate) fn new(qemu: Qemu, mut config: VmConfig) -> Result<QemuMachine, Error> {
        config.check(MAX_QEMU_DEVICES)?;
        vhost_user::prepare().map_err(Error::host("opening this process's files"))?;
        // QEMU can't add devices later, so the places exist from the start.
        let pairs = net::queue_pairs(config.vcpus);
        let slots: Vec<_> = (0..config.nic_slots).map(|_| NetSlot::new(pairs)).collect();
        let slots = NicSlots {
            first: config.devices.len(),
            slots,
        };
        let places = slots.slots.iter().cloned();
        let places = places.map(|slot| Box::new(slot) as Box<dyn VirtioDevice>);
        config.devices.extend(places);
        for (index, device) in config.devices.iter().enumerate() {
            if DeviceKind::new(&**device).is_none() {
                return Err(Error::NotForQemu { index });
            }
        }
        let binary = qemu.open()?;
        // Takes some milliseconds, during which the following is done.
        let libraries = qemu.ask_for_libraries()?;
        let tsc = tsc::Measurement::begin();
        let memory = memory::create(config.memory)?;
        let (kernel, initramfs) = config.load(&memory)?;
        let words = words(config.vcpus, tsc.end());
        let devices = (0..config.devices.len()).map(slot);
        let cmdline = full_cmdline(&config.cmdline, &words, devices)?;
        let boot = Boot {
            memory_size: config.memory,
            vcpus: config.vcpus,
            cmdline: &cmdline,
            initramfs,
            timer_pin: Boot::PC_TIMER_PIN,
        };
        boot.write(&memory)?;
        let rom = rom_file(kernel.entry).map_err(Error::host("making the boot ROM"))?;
        let (console, console_writer) = Console::new(config.console_log.take());
        Ok(QemuMachine {
            qemu,
            binary,
            libraries,
            name: config.name,
            user: config.user,
            vcpus: config.vcpus,
            nested: config.nested,
            memory_size: config.memory,
            memory: Arc::new(memory),
            rom,
            devices: config.devices,
            nics: slots,
            console,
            console_writer,
        })
    }

    /// Starts it; `confine` is called once QEMU exists, before there are threads.
    pub(crate) fn start(
        self,
        confine: impl FnOnce() -> io::Result<()>,
    ) -> Result<RunningQemu, Error> {
        let host = Error::host;
        let (console, console_end) = pipe().map_err(host("making the console's pipe"))?;
        let (messages, messages_end) = pipe().map_err(host("making a pipe for QEMU"))?;
        let null = File::open("/dev/null").map_err(host("opening /dev/null"))?;
        let mut arguments = Arguments::new(&self.name, self.vcpus, self.nested, self.memory_size);
        let (connections, sockets) = connect(self.devices, &mut arguments)?;
        let memory_file = self
            .memory
            .iter()
            .find_map(|region| region.file_offset())
            .ok_or_else(|| io::Error::other("it isn't a file"))
            .map_err(host("giving memory to QEMU"))?;
        let mut files = vec![
            null.as_fd(),
            console_end.as_fd(),
            messages_end.as_fd(),
            memory_file.file().as_fd(),
            self.rom.as_fd(),
        ];
        files.extend(sockets.iter().map(AsFd::as_fd));
        debug_assert_eq!(files.len() - sockets.len(), command::FIRST_SOCKET);

        let path = self.qemu.path().canonicalize();
        let path = path.map_err(host("looking for QEMU"))?;
        let shared = Arc::new(Shared {
            end: End::new().map_err(host("creating an event"))?,
            exited: AtomicBool::new(false),
            console: self.console,
            threads: Threads::default(),
        });
        let said = self.libraries.answer();
        let said = said.map_err(|reason| self.qemu.unusable(reason))?;
        let max_files = arguments.max_files();
        let child = jail::Jail {
            binary: self.binary.as_fd(),
            path: &path,
            libraries: &root::parse(&said),
            arguments: arguments.finish(),
            files,
            user: self.user,
            vcpus: self.vcpus,
            max_files,
        }
        .spawn()
        .map_err(host("starting QEMU"))?;
        let child = Arc::new(child);
        // From here on, QEMU is killed if something else fails.
        let running = RunningQemu {
            qemu: self.qemu,
            shared: Arc::clone(&shared),
            child: Arc::clone(&child),
            nics: self.nics,
        };
        drop((console_end, messages_end, sockets));
        confine().map_err(host(CONFINING))?;

        let watch = Watch {
            child: Arc::clone(&child),
            shared: Arc::clone(&shared),
            console,
            console_writer: self.console_writer,
            messages,
            user: self.user,
        };
        watch.start().map_err(host("starting a thread"))?;
        for connection in connections {
            serve(connection, &self.memory, &shared, &child)
                .map_err(host("starting a device's thread"))?;
        }
        Ok(running)
    }
}

/// Puts the devices on QEMU's command line. Returns those that are ours, and QEMU's ends of their
/// sockets.
fn connect(
    devices: Vec<Box<dyn VirtioDevice>>,
    arguments: &mut Arguments,
) -> Result<(Vec<Connection>, Vec<OwnedFd>), Error> {
    let mut connections = Vec::new();
    let mut sockets = Vec::new();
    let mut doors = None;
    for (index, mut device) in devices.into_iter().enumerate() {
        let kind = DeviceKind::new(&*device).ok_or(Error::NotForQemu { index })?;
        arguments.device(&kind, index, sockets.len());
        let Some(handed_over) = kind.handed_over else {
            continue;
        };
        if let Some(theirs) = device.take_socket() {
            sockets.push(theirs.into());
            continue;
        }
        let (socket, theirs) = socket(&kind, &mut doors).map_err(Error::host("making a socket"))?;
        sockets.push(theirs);
        connections.push(Connection {
            name: kind.name,
            device,
            handed_over,
            needed: kind.needed.unwrap_or(handed_over),
            gives_config: kind.gives_config,
            socket,
        });
    }
    Ok((connections, sockets))
}

/// Makes a socket for a device, and the descriptor through which QEMU reaches it.
fn socket(kind: &DeviceKind, doors: &mut Option<Doors>) -> io::Result<(Socket, OwnedFd)> {
    if !kind.connects() {
        let (ours, theirs) = UnixStream::pair()?;
        return Ok((Socket::Connected(ours), theirs.into()));
    }
    let doors = match doors {
        Some(doors) => doors,
        None => doors.insert(Doors::new()?),
    };
    let (listener, theirs) = doors.open()?;
    Ok((Socket::Listening(listener), theirs))
}

/// Serves a device in a thread of its own. If it fails, the machine ends.
fn serve(
    connection: Connection,
    memory: &Arc<GuestMemoryMmap>,
    shared: &Arc<Shared>,
    child: &Arc<Child>,
) -> io::Result<()> {
    let device = connection.name;
    let memory = Memory::Known(Arc::clone(memory));
    let peer = child.as_fd().try_clone_to_owned()?;
    let told = Arc::clone(shared);
    let failed = move |why: &str| told.device_failed(device, why);
    let counted = Arc::clone(shared);
    shared.threads.add();
    connection
        .serve(memory, peer, Arc::new(failed), move || {
            counted.threads.done();
        })
        .inspect_err(|_| shared.threads.done())
}

/// Returns the address and size of the registers of device `index`, and its interrupt.
fn slot(index: usize) -> (GuestAddress, u64, u32) {
    let start = GuestAddress(MMIO_START + index as u64 * MMIO_DEVICE_SIZE);
    (start, MMIO_DEVICE_SIZE, FIRST_IRQ + index as u32)
}

/// Makes a file in memory with the ROM that enters a kernel.
fn rom_file(entry: GuestAddress) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(c"boot-rom".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(&boot_rom::image(entry))?;
    file.rewind()?;
    Ok(file)
}

/// Makes a pipe: our end, which never blocks, and the other.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for both descriptors, which are new and nobody else's.
    let (ours, theirs) = unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    };
    // SAFETY: sets a flag of the reading end, which has its own open file description.
    if unsafe { libc::fcntl(fds[0], libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((File::from(ours), theirs))
}
