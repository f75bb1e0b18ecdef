//! Why a machine could not be made, or didn't run to its end.

use std::io;

use crate::devices::virtio::mmio::TransportError;
use crate::kvm::KvmError;
use crate::loader::LoadError;
use crate::memory::MemoryError;
use crate::{MAX_DEVICES, MAX_VCPUS};

/// Why a machine could not be made, or didn't run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no KVM that could run it.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// It can't have so many vCPUs.
    #[error("{requested} vCPUs: a machine has 1 to {max}")]
    Vcpus {
        /// How many were asked for.
        requested: u8,
        /// The most that it can have: [`MAX_VCPUS`], or fewer if KVM says so.
        max: u8,
    },
    /// It can't have so many devices.
    #[error("{0} virtio devices: a machine has at most {MAX_DEVICES}")]
    Devices(usize),
    /// A device can't be attached.
    #[error("attaching virtio device {index}")]
    Device {
        /// Which device, from 0.
        index: usize,
        /// Why.
        #[source]
        source: TransportError,
    },
    /// The command line is too long, or holds what a command line can't.
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
    /// The guest's processor had a fault while handling a fault while handling a fault.
    #[error("the guest's processor shut down (triple fault)")]
    TripleFault {
        /// The last lines of the serial console.
        console_tail: String,
    },
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`).
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
    /// The vCPU stopped for a reason that isn't expected of a PC.
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
    /// A vCPU's thread didn't end in time.
    #[error("a vCPU did not stop in time")]
    StopTimeout,
}

impl Error {
    /// The last lines of the guest's serial console, if the machine ran at all. They hold no
    /// control characters.
    pub fn console_tail(&self) -> Option<&str> {
        match self {
            Error::TripleFault { console_tail }
            | Error::InternalError { console_tail, .. }
            | Error::FailEntry { console_tail, .. }
            | Error::UnexpectedExit { console_tail, .. }
            | Error::Run { console_tail, .. } => Some(console_tail),
            _ => None,
        }
    }

    /// For `map_err`: the host refused `what`.
    pub(crate) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |error| Error::Host {
            what,
            source: error.into(),
        }
    }
}

const _: () = assert!(MAX_VCPUS >= 8 && MAX_DEVICES >= 15);
