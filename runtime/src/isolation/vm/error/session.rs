//! Why the conversation with a guest ended early.

use std::{io, time::Duration};

use nacre_agent::protocol::{Failure, VERSION};
use nacre_vmm::devices::virtio::fs::FileServerError;
use nix::sys::signal::Signal;

use crate::isolation::vm::control::ControlError;

/// Why the conversation ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("the guest didn't say hello within {} s", .0.as_secs_f32())]
    NoHello(Duration),
    #[error("the guest's agent speaks version {theirs} of the protocol, nacre version {VERSION}")]
    Version { theirs: u32 },
    #[error("the guest's kernel calls its release what no kernel does")]
    Kernel,
    #[error("the guest didn't {what} within {} s", timeout.as_secs_f32())]
    NoReply {
        what: &'static str,
        timeout: Duration,
    },
    #[error("the guest ended while nacre waited for {0}")]
    MachineEnded(&'static str),
    #[error(
        "the guest is frozen: it has said nothing for {} s, though it was asked (vm.watchdog in \
         the configuration file)", .0.as_secs_f32()
    )]
    Frozen(Duration),
    #[error("the guest sent what nobody asked for")]
    Unasked,
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What the engine in the guest says, worded for whoever runs nacre.
    #[error("unable to start container process: {}", .0.message)]
    Refused(Failure),
    #[error("ended by {0} before the container was started")]
    Interrupted(Signal),
    #[error("the nacre that waited for the container is gone")]
    CallerGone,
    #[error("the process that stands for the container was killed")]
    StandInKilled,
    #[error(transparent)]
    FileServer(#[from] FileServerError),
    #[error("can't wait for the guest")]
    Poll(#[source] io::Error),
}

impl SessionError {
    /// Whether the guest is to blame, so that its console may say why.
    pub(in crate::isolation::vm) fn is_the_guests(&self) -> bool {
        match self {
            Self::NoHello(_)
            | Self::Version { .. }
            | Self::Kernel
            | Self::NoReply { .. }
            | Self::MachineEnded(_)
            | Self::Frozen(_)
            | Self::Unasked
            | Self::Control(_) => true,
            Self::Refused(_)
            | Self::Interrupted(_)
            | Self::CallerGone
            | Self::StandInKilled
            | Self::FileServer(_)
            | Self::Poll(_) => false,
        }
    }
}
