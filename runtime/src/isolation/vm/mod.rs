//! Isolation by a microVM: a container's plan, the sandbox process that carries it out, and
//! the commands, which have it do what is asked.

mod caller;
mod commands;
mod control;
mod error;
mod guest_spec;
mod heir;
pub(crate) mod hypervisor;
mod limits;
pub(crate) mod nested;
pub(crate) mod network;
mod plan;
mod sandbox;
mod stand_in;
mod streams;
mod terminal;
mod wire;

use std::path::PathBuf;

use crate::{
    config::{Vm, annotations::Annotations, bundle::Bundle},
    id::Id,
    isolation::StatusError,
    state::{Record, Status, Store, record},
};

use hypervisor::Hypervisor;
use plan::Plan;

pub(crate) use commands::{
    Event, difference, end, exec, kill, pause, pids, processes, ps_table, resume, start, stats,
    update, watch,
};
pub(crate) use error::{VmError, failure};
pub(crate) use wire::SOCKET;

/// How far a command takes a container, and what becomes of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Up to its start, which is another command's.
    Create,
    /// It is started, and left alone.
    Detached,
    /// It is started and waited for. Nothing is left of it then, unless it is to be kept.
    InForeground { keep: bool },
}

impl How {
    /// Whether the record outlives the container.
    fn keeps(self) -> bool {
        self != Self::InForeground { keep: false }
    }
}

/// How a container is to be made, besides what its bundle says.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) how: How,
    /// Where to write the pid of the process that stands for the container.
    pub(crate) pid_file: Option<PathBuf>,
    /// Where its terminal's master is sent.
    pub(crate) console_socket: Option<PathBuf>,
    /// How many more of the caller's descriptors it is to get, which can't be honoured.
    pub(crate) preserve_fds: u32,
    /// Leave the container in its guest's session keyring instead of one of its own.
    pub(crate) no_new_keyring: bool,
    /// Have the guest kernel log what it does.
    pub(crate) debug: bool,
    /// What is to run the VM, if the command line says so.
    pub(crate) hypervisor: Option<Hypervisor>,
    /// Whether systemd makes the sandbox process's cgroup.
    pub(crate) systemd_cgroup: bool,
}

/// A container that a command found.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    record: &'a Record,
    vm: &'a record::Vm,
    folder: PathBuf,
}

impl<'a> Found<'a> {
    pub(super) fn new(record: &'a Record, vm: &'a record::Vm, folder: PathBuf) -> Self {
        Self { record, vm, folder }
    }

    /// It can't be done what was asked, because the container is so.
    fn not_running(&self, status: Status) -> VmError {
        let id = self.record.id.clone();
        StatusError::NotRunning { id, status }.into()
    }

    /// Sends a signal to the sandbox process.
    fn signal_sandbox(&self, signal: i32) -> Result<(), VmError> {
        self.vm
            .sandbox
            .signal(signal)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::ESRCH) => self.not_running(Status::Stopped),
                _ => VmError::host("can't signal the container's sandbox process")(source),
            })
    }
}

/// Makes a container in a VM, and starts it, as `options.how` says; returns its workload's exit
/// status, or 0 if it wasn't waited for.
pub(crate) fn run(
    store: &Store,
    id: Id,
    bundle: Bundle,
    annotations: &Annotations,
    config: &Vm,
    options: Options,
) -> Result<u8, VmError> {
    caller::run(store, Plan::new(id, bundle, annotations, config, options)?)
}
