//! Why a machine could not be made, or didn't run to its end.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::arch::BootError;
use crate::devices::virtio::ActivateError;
use crate::devices::virtio::mmio::TransportError;
use crate::kvm_error::KvmError;
use crate::loader::LoadError;
use crate::memory::MemoryError;
use crate::qemu_error::QemuError;

/// Why a machine could not be made, or didn't run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no KVM that can run it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// It can't have that many vCPUs.
    #[error("{requested} vCPUs: a machine has 1 to {max}")]
    Vcpus {
        /// How many were asked for.
        requested: u8,
        /// The most that it can have: [`MAX_VCPUS`](crate::MAX_VCPUS), or fewer if KVM says so.
        max: u8,
    },
    /// It can't have that many devices.
    #[error("{requested} virtio devices: such a machine has at most {max}")]
    Devices {
        /// How many were asked for.
        requested: usize,
        /// The most that it can have.
        max: usize,
    },
    /// A device can't be attached.
    #[error("attaching virtio device {index}")]
    Device {
        /// Which device, from 0.
        index: usize,
        /// Why.
        #[source]
        source: TransportError,
    },
    /// There is no slot for one more network device.
    #[error("every slot for a network device is taken")]
    NoSlot,
    /// A network device has a different number of queues than its slot.
    #[error("a network device of {found} pairs of queues: this machine's have {wanted}")]
    QueuePairs {
        /// The number that it has.
        found: usize,
        /// The number that it must have: [`queue_pairs`](crate::devices::virtio::net::queue_pairs).
        wanted: usize,
    },
    /// A network device can't work with what the guest has set up.
    #[error("starting a network device")]
    Start(#[source] ActivateError),
    /// The command line is too long, or contains what a command line can't.
    #[error("the kernel command line is not acceptable: {0}")]
    Cmdline(linux_loader::cmdline::Error),
    /// There is no guest memory.
    #[error("guest memory")]
    Memory(#[from] MemoryError),
    /// Kernel or initramfs could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The boot structures could not be written.
    #[error("writing the boot parameters")]
    Boot(#[source] io::Error),
    /// The host refused something that the machine needs.
    #[error("{what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The guest's processor had a triple fault.
    #[error("the guest's processor shut down (triple fault)")]
    TripleFault {
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// KVM could not continue (`KVM_EXIT_INTERNAL_ERROR`).
    #[error("KVM could not run the guest any further (internal error, suberror {suberror})")]
    InternalError {
        /// KVM's reason: 1 is an instruction that it couldn't emulate.
        suberror: u32,
        /// What KVM adds to it; for suberror 1 the instruction's bytes.
        data: Vec<u64>,
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// The processor refused to enter the guest (`KVM_EXIT_FAIL_ENTRY`).
    #[error("the processor refused to enter the guest (reason {reason:#x})")]
    FailEntry {
        /// The processor's reason.
        reason: u64,
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// The vCPU exited for a reason that isn't expected of a PC.
    #[error("the guest stopped for an unexpected reason: {reason}")]
    UnexpectedExit {
        /// KVM's name for the reason.
        reason: String,
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// `KVM_RUN` itself failed.
    #[error("running a vCPU")]
    Run {
        /// What the host said.
        #[source]
        source: io::Error,
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// There is no QEMU that can run it.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// QEMU can't reach such a device of ours.
    #[error("virtio device {index} can't be reached from QEMU")]
    NotForQemu {
        /// Which device, from 0.
        index: usize,
    },
    /// QEMU ended, and not because the guest did.
    #[error("QEMU {how}{}", Said(.message))]
    QemuEnded {
        /// How it ended: a status or a signal.
        how: String,
        /// The last lines of what it said on standard error, without control characters.
        message: String,
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// A device, or what QEMU sent it, made it impossible to continue.
    #[error("virtio device \"{device}\" failed: {reason}")]
    DeviceFailed {
        /// The device.
        device: &'static str,
        /// Why.
        reason: String,
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// The monitor, in a process of its own, says why.
    #[error("{message}")]
    Told {
        /// What it says.
        message: String,
        /// Why.
        #[source]
        source: Option<Box<Error>>,
        /// The last lines of the serial console, if the machine ran.
        console_tail: Option<String>,
    },
    /// The monitor's process ended before the machine did.
    #[error("the monitor {how}")]
    MonitorEnded {
        /// How: a status or a signal.
        how: String,
    },
    /// What the monitor says makes no sense.
    #[error("the monitor doesn't keep to what it may say")]
    MonitorMisspoke,
    /// The monitor says nothing.
    #[error("the monitor said nothing for {} s", .0.as_secs())]
    MonitorSilent(Duration),
    /// A vCPU, or QEMU, didn't stop in time. The machine continues.
    #[error("the machine did not pause in time")]
    PauseTimeout,
    /// A thread of the machine, or QEMU, didn't end in time.
    #[error("the machine did not stop in time")]
    StopTimeout,
}

/// What was being done when this process couldn't give up what it needs no more.
pub(crate) const CONFINING: &str = "confining the monitor";

/// A program's output, following how it ended.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => Ok(()),
            said => write!(f, ": {}", said.replace('\n', " | ")),
        }
    }
}

impl From<BootError> for Error {
    fn from(error: BootError) -> Error {
        Error::Boot(match error {
            BootError::Memory(error) => io::Error::other(error),
            BootError::Random(error) => error,
        })
    }
}

impl Error {
    /// Returns the last lines of the guest's serial console, if the machine ran at all. They
    /// contain no control characters.
    pub fn console_tail(&self) -> Option<&str> {
        match self {
            Error::TripleFault { console_tail }
            | Error::InternalError { console_tail, .. }
            | Error::FailEntry { console_tail, .. }
            | Error::UnexpectedExit { console_tail, .. }
            | Error::Run { console_tail, .. }
            | Error::QemuEnded { console_tail, .. }
            | Error::DeviceFailed { console_tail, .. } => Some(console_tail),
            Error::Told { console_tail, .. } => console_tail.as_deref(),
            _ => None,
        }
    }

    /// Makes, for `map_err`, the error that the host refused `what`.
    pub(crate) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |error| Error::Host {
            what,
            source: error.into(),
        }
    }
}
