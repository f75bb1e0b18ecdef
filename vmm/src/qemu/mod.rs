//! Machines whose processor QEMU emulates (its TCG), for hosts without a usable KVM.
//!
//! QEMU is a child of this process, in a jail ([`jail`]), and ends when this process does,
//! however that ends. Guest memory is a sealed file of this process, with the kernel in it as
//! under KVM, and QEMU maps it; instead of a BIOS there is a ROM that enters the kernel
//! ([`boot_rom`]). The serial console comes through a pipe, the virtio devices stay in this
//! process and are reached over vhost-user. The guest powers off by the port that it knows, as
//! QEMU's `isa-debug-exit` makes an exit status of what is written there.

mod ask;
mod boot_rom;
mod command;
mod door;
mod jail;
mod root;
#[cfg(test)]
mod tests;
mod tsc;
mod version;
mod watch;

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::Builder;
use std::time::Duration;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use crate::arch::Boot;
use crate::console::{Console, ConsoleWriter};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::net::{self, Net, NetSlot};
use crate::devices::virtio::thread::with_signals_blocked;
use crate::devices::virtio::vhost_user::{Connection, Socket};
use crate::end::{End, Threads};
use crate::error::Error;
use crate::memory;
use crate::vm::{Exit, VmConfig, full_cmdline};
use ask::Question;
pub use command::TRANSLATIONS;
use door::Doors;
pub use version::Version;
use watch::Watch;

/// The most virtio devices that a machine under QEMU has: its microvm machine has places for
/// that many.
pub const MAX_QEMU_DEVICES: usize = 8;

/// Where QEMU is looked for unless another place is named.
pub const DEFAULT_PATH: &str = "/usr/bin/qemu-system-x86_64";

/// The oldest QEMU that has what a machine needs.
pub const OLDEST: Version = Version { major: 7, minor: 2 };

/// How long QEMU, once killed, and the devices have to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What a network device is called in messages.
const NET: &str = "net";

/// How long QEMU has for coming to a stand.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

// The microvm machine's virtio-mmio devices: addresses, size of the registers, interrupts.
const MMIO_START: u64 = 0xfeb0_0000;
const MMIO_DEVICE_SIZE: u64 = 512;
const FIRST_IRQ: u32 = 5;

/// What the kernel is told besides. Without a keyboard controller it resets by a triple fault.
/// It leaves the lock prefixes in its code, which cost an emulated processor nothing, while
/// taking them out invalidates what has been translated of that code. On a busy host it would take
/// a timer's late interrupt for a broken timer, and panic.
const CMDLINE: &str = "reboot=t noreplace-smp no_timer_check";

/// With one processor its timer is a PC's, which needn't be measured: that takes a quarter of
/// a second. With several, each needs its own.
const ONE_VCPU: &str = " nolapic_timer";

/// What the kernel of a machine of `vcpus` is told besides, whose time-stamp counters are the
/// host's, of `tsc` kHz.
fn words(vcpus: u8, tsc: Option<u64>) -> String {
    let mut words = CMDLINE.to_owned();
    if vcpus == 1 {
        words += ONE_VCPU;
    }
    if let Some(khz) = tsc {
        words += &format!(" tsc=reliable tsc_early_khz={khz}");
    }
    words
}

/// A QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    path: PathBuf,
}

/// Why there is no QEMU to use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QemuError {
    /// It isn't installed, or can't be opened.
    #[error("there is no QEMU at {path}")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// It isn't new enough.
    #[error("{path} is version {found}, and {OLDEST} is the oldest that will do")]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// It doesn't say its version.
    #[error("{path} doesn't say that it is a QEMU: {reason}")]
    NotQemu {
        /// The file.
        path: PathBuf,
        /// What it did instead.
        reason: String,
    },
}

impl Qemu {
    /// The QEMU at `path`, usually [`DEFAULT_PATH`]. Whether it will do is found out by
    /// [`check`](Self::check), or when a machine starts.
    pub fn at(path: impl Into<PathBuf>) -> Qemu {
        Qemu { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens its binary.
    ///
    /// # Errors
    ///
    /// [`QemuError::Missing`].
    fn open(&self) -> Result<File, QemuError> {
        File::open(&self.path)
            .and_then(|file| match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(io::Error::other("not a file")),
            })
            .map_err(|source| QemuError::Missing {
                path: self.path.clone(),
                source,
            })
    }

    /// Asks whether it is there, without running it: takes no time to speak of.
    ///
    /// # Errors
    ///
    /// [`QemuError::Missing`].
    pub fn find(&self) -> Result<(), QemuError> {
        self.open().map(drop)
    }

    /// Asks for the shared libraries that it needs.
    fn ask_for_libraries(&self) -> Result<Question, QemuError> {
        Question::libraries(&self.path).map_err(|reason| self.is_none(reason))
    }

    fn is_none(&self, reason: String) -> QemuError {
        QemuError::NotQemu {
            path: self.path.clone(),
            reason,
        }
    }

    /// Runs it to ask for its version, which must be [`OLDEST`] or newer: takes some 30 ms, and
    /// at most some seconds.
    ///
    /// # Errors
    ///
    /// [`QemuError`].
    pub fn check(&self) -> Result<Version, QemuError> {
        self.find()?;
        let found = version::of(&self.path).map_err(|reason| self.is_none(reason))?;
        match found < OLDEST {
            true => Err(QemuError::TooOld {
                path: self.path.clone(),
                found,
            }),
            false => Ok(found),
        }
    }
}

/// A machine that is ready to start.
pub(crate) struct Made {
    qemu: Qemu,
    binary: File,
    /// The question what its loader loads.
    libraries: Question,
    name: String,
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

/// The places of network devices.
struct NicSlots {
    /// The number of the first.
    first: usize,
    slots: Vec<NetSlot>,
}

impl Made {
    pub(crate) fn new(qemu: Qemu, mut config: VmConfig) -> Result<Made, Error> {
        config.check(MAX_QEMU_DEVICES)?;
        // QEMU can't add devices later, so the places are there from the start.
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
            if command::Kind::of(&**device).is_none() {
                return Err(Error::NotForQemu { index });
            }
        }
        let binary = qemu.open()?;
        // Takes some milliseconds, as what follows does.
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
        Ok(Made {
            qemu,
            binary,
            libraries,
            name: config.name,
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

    pub(crate) fn start(self) -> Result<Running, Error> {
        let host = Error::host;
        let (console, console_end) = pipe().map_err(host("making the console's pipe"))?;
        let (messages, messages_end) = pipe().map_err(host("making a pipe for QEMU"))?;
        let null = File::open("/dev/null").map_err(host("opening /dev/null"))?;
        let mut arguments =
            command::Arguments::new(&self.name, self.vcpus, self.nested, self.memory_size);
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

        let path = self.qemu.path.canonicalize();
        let path = path.map_err(host("looking for QEMU"))?;
        let shared = Arc::new(Shared {
            end: End::new().map_err(host("creating an event"))?,
            console: self.console,
            threads: Threads::default(),
        });
        let said = self.libraries.answer();
        let said = said.map_err(|reason| self.qemu.is_none(reason))?;
        let max_files = arguments.max_files();
        let child = jail::Jail {
            binary: self.binary.as_fd(),
            path: &path,
            libraries: &root::parse(&said),
            arguments: arguments.finish(),
            files,
            vcpus: self.vcpus,
            max_files,
        }
        .spawn()
        .map_err(host("starting QEMU"))?;
        let child = Arc::new(child);
        // From here on QEMU is killed if something else fails.
        let running = Running {
            shared: Arc::clone(&shared),
            child: Arc::clone(&child),
            nics: self.nics,
        };
        drop((console_end, messages_end, sockets));

        let watch = Watch {
            qemu: self.qemu,
            child: Arc::clone(&child),
            shared: Arc::clone(&shared),
            console,
            console_writer: self.console_writer,
            messages,
        };
        watch.start().map_err(host("starting a thread"))?;
        for connection in connections {
            serve(connection, &self.memory, &shared, &child)
                .map_err(host("starting a device's thread"))?;
        }
        Ok(running)
    }
}

/// Puts the devices on QEMU's command line. Gives those that are ours, and QEMU's ends of their
/// sockets.
fn connect(
    devices: Vec<Box<dyn VirtioDevice>>,
    arguments: &mut command::Arguments,
) -> Result<(Vec<Connection>, Vec<OwnedFd>), Error> {
    let mut connections = Vec::new();
    let mut sockets = Vec::new();
    let mut doors = None;
    for (index, device) in devices.into_iter().enumerate() {
        let kind = command::Kind::of(&*device).ok_or(Error::NotForQemu { index })?;
        arguments.device(&kind, index, sockets.len());
        let Some(handed_over) = kind.handed_over else {
            continue;
        };
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

/// A socket for a device, and what QEMU reaches it by.
fn socket(kind: &command::Kind, doors: &mut Option<Doors>) -> io::Result<(Socket, OwnedFd)> {
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

/// Serves a device in a thread of its own. What it fails with ends the machine.
fn serve(
    connection: Connection,
    memory: &Arc<GuestMemoryMmap>,
    shared: &Arc<Shared>,
    child: &Arc<jail::Child>,
) -> io::Result<()> {
    let device = connection.name;
    let peer = child.as_fd().try_clone_to_owned()?;
    let (told, child) = (Arc::clone(shared), Arc::clone(child));
    let failed = move |why: &str| told.device_failed(&child, device, why);
    let counted = Arc::clone(shared);
    shared.threads.add();
    connection
        .serve(Arc::clone(memory), peer, Arc::new(failed), move || {
            counted.threads.done();
        })
        .inspect_err(|_| shared.threads.done())
}

/// The address and size of the registers of device `index`, and its interrupt.
fn slot(index: usize) -> (GuestAddress, u64, u32) {
    let start = GuestAddress(MMIO_START + index as u64 * MMIO_DEVICE_SIZE);
    (start, MMIO_DEVICE_SIZE, FIRST_IRQ + index as u32)
}

/// A file in memory with the ROM that enters a kernel.
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

/// A pipe: our end, which never makes us wait, and the other.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for both descriptors, which are new and nobody else's.
    let (ours, theirs) = unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1]))
    };
    // SAFETY: sets a flag of the reading end, which is a description of its own.
    if unsafe { libc::fcntl(fds[0], libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((File::from(ours), theirs))
}

/// What the threads of a machine share.
struct Shared {
    end: End,
    console: Arc<Console>,
    threads: Threads,
}

impl Shared {
    /// Ends the machine because of a device.
    fn device_failed(&self, child: &jail::Child, device: &'static str, why: &str) {
        let failure = Error::DeviceFailed {
            device,
            reason: why.to_owned(),
            console_tail: self.console.tail(),
        };
        if self.end.set(Err(failure)) {
            child.kill();
        }
    }
}

/// A machine that runs, or has ended.
pub(crate) struct Running {
    shared: Arc<Shared>,
    child: Arc<jail::Child>,
    nics: NicSlots,
}

impl Running {
    /// Puts a network device into the first slot that has none. Gives the number of its place.
    pub(crate) fn plug_net(&self, mut net: Net) -> Result<usize, Error> {
        let (first, slots) = (self.nics.first, self.nics.slots.clone());
        self.within(STOP_LIMIT, move || {
            for (place, slot) in (first..).zip(slots) {
                match slot.fill(net).map_err(Error::Start)? {
                    None => return Ok(place),
                    Some(back) => net = back,
                }
            }
            Err(Error::NoSlot)
        })?
    }

    /// Takes the network device out of a slot, if there is one. If that can't be done, the machine
    /// ends.
    pub(crate) fn unplug_net(&self, place: usize) {
        let slot = place.checked_sub(self.nics.first);
        let slot = slot.and_then(|slot| self.nics.slots.get(slot)).cloned();
        if let Some(slot) = slot
            && let Err(error) = self.within(STOP_LIMIT, move || slot.clear())
        {
            self.shared
                .device_failed(&self.child, NET, &error.to_string());
        }
    }

    /// Does what may wait for a network device's threads. A QEMU that was taken over can hold them
    /// up: the machine ends if it takes longer than `limit`.
    fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (tell, told) = mpsc::channel();
        let builder = Builder::new().name("plug".into());
        // Nobody is told who has stopped waiting.
        let body = move || drop(tell.send(work()));
        with_signals_blocked(|| builder.spawn(body)).map_err(Error::host("starting a thread"))?;
        told.recv_timeout(limit).map_err(|_| {
            let why = "its threads did not stop in time";
            self.shared.device_failed(&self.child, NET, why);
            Error::StopTimeout
        })
    }

    pub(crate) fn exit_event(&self) -> BorrowedFd<'_> {
        self.shared.end.event()
    }

    pub(crate) fn console_tail(&self) -> String {
        self.shared.console.tail()
    }

    pub(crate) fn stop(&mut self) {
        self.shared.end.set(Ok(Exit::Stopped));
        self.child.kill();
    }

    /// QEMU's process is stopped as a whole. It answers nothing then, which nobody waits for: the
    /// devices' threads only ever wait for what QEMU sends.
    pub(crate) fn pause(&self) -> Result<(), Error> {
        match self.child.stop(PAUSE_LIMIT) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.resume()?;
                Err(Error::PauseTimeout)
            }
            Err(source) => Err(Error::host("stopping QEMU")(source)),
        }
    }

    pub(crate) fn resume(&self) -> Result<(), Error> {
        self.child
            .signal(libc::SIGCONT)
            .map_err(Error::host("letting QEMU go on"))
    }

    pub(crate) fn wait(mut self) -> Result<Exit, Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Exit, Error> {
        self.stop();
        match self.shared.threads.wait(STOP_LIMIT) {
            true => self.shared.end.take(),
            // They keep what they need; nothing can be done about them.
            false => self.shared.end.take().and(Err(Error::StopTimeout)),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}
