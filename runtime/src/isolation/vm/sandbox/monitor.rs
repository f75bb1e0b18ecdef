//! The monitor's process: made while this one has a single thread, of what the plan says.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

use nacre_agent::container::forget_environment;
use nacre_vmm::{
    OwnUser, Qemu, VmConfig,
    devices::virtio::{VirtioDevice, throttle::Throttle, vhost_user::RemoteDevice},
    monitor::{self, Inheritance, Monitor},
};

use crate::{
    config::{hypervisor::Hypervisor, rates::Rates},
    isolation::vm::{
        error::VmError,
        plan::{KernelLog, MachinePlan},
        stand_in::{Words, open_descriptors},
    },
    log,
};

use super::{initramfs, logs::MonitorEnds};

/// The kernel's command line: the agent is the initramfs's `/init`. A panic resets the machine
/// at once, through the keyboard controller, which is how the monitor learns of it. Per-CPU
/// data in pages saves a small guest 2 MiB (guest-kernel-config/README.md has figures).
const CMDLINE: &str = "console=ttyS0 panic=-1 reboot=k percpu_alloc=page";

/// What a machine has besides what its plan says.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) devices: Vec<Box<dyn VirtioDevice>>,
    /// How many network devices it can have.
    pub(super) nic_slots: usize,
    pub(super) rates: Rates,
    /// The size of its disk, in bytes; 0 if it has none.
    pub(super) disk_size: u64,
}

/// This process's descriptors that are no part of a machine.
pub(super) struct Unshared(Vec<RawFd>);

impl Unshared {
    /// Notes what is open now, but for the files of that plan and the file systems' sockets. What is
    /// opened from now on until the monitor is made is shared with it.
    pub(super) fn note(plan: &MachinePlan, systems: &[RemoteDevice]) -> io::Result<Self> {
        let mut open = open_descriptors()?;
        let files = [&plan.kernel, &plan.agent].map(AsRawFd::as_raw_fd);
        let sockets = systems.iter().map(AsRawFd::as_raw_fd);
        let shared: Vec<RawFd> = files.into_iter().chain(sockets).collect();
        open.retain(|descriptor| !shared.contains(descriptor));
        Ok(Self(open))
    }

    /// Adds this process's end of something that the machine has the other end of.
    pub(super) fn add(&mut self, end: RawFd) {
        self.0.push(end);
    }
}

/// Makes the monitor, which makes the machine at once and starts it when it is told to.
pub(super) fn make(
    plan: MachinePlan,
    parts: Parts,
    unshared: Unshared,
    logs: MonitorEnds,
    words: &Words,
) -> Result<Monitor, VmError> {
    tracing::debug!(
        "container {}: a VM of {} vCPUs and {} MiB, run by {}",
        parts.name,
        plan.size.cpus,
        plan.size.memory >> 20,
        plan.hypervisor.name()
    );
    let inheritance = Inheritance {
        closed: unshared.0,
        messages: logs.messages,
        largest_file: parts.disk_size,
    };
    let title = format!("nacre: runs the VM of {}", parts.name);
    let settle = || {
        log::pass_on();
        // SAFETY: these words, and this environment, are a copy of the sandbox process's, in a process
        // that has a single thread and no use for either.
        unsafe {
            words.replace(&title);
            forget_environment();
        }
    };
    let config = config(plan, parts, logs.console)?;
    // SAFETY: this process has a single thread. What the machine consists of isn't among what is
    // closed.
    unsafe { monitor::spawn(inheritance, config, settle) }
        .map_err(VmError::host("can't make the monitor"))
}

/// Returns what the machine consists of.
fn config(plan: MachinePlan, parts: Parts, console_log: Option<File>) -> Result<VmConfig, VmError> {
    let nic_throttle = || Throttle::new(parts.rates.network);
    Ok(VmConfig {
        hypervisor: match plan.hypervisor {
            Hypervisor::Kvm => nacre_vmm::Hypervisor::Kvm,
            Hypervisor::Qemu => nacre_vmm::Hypervisor::Qemu(Qemu::at(plan.qemu)),
        },
        nic_throttles: [nic_throttle(), nic_throttle()],
        name: parts.name,
        user: OwnUser::choose().map_err(VmError::host("can't see which users there are"))?,
        vcpus: plan.size.cpus as u8,
        memory: plan.size.memory,
        kernel: plan.kernel,
        initramfs: initramfs::build(plan.agent).map_err(VmError::host("can't read the agent"))?,
        cmdline: cmdline(plan.kernel_log),
        console_log,
        devices: parts.devices,
        nic_slots: parts.nic_slots,
        nested: plan.nested,
    })
}

/// Returns the kernel's command line. The kernel's own log goes to the console only where somebody
/// reads it: each character costs an exit.
fn cmdline(log: KernelLog) -> String {
    match log {
        KernelLog::Read => CMDLINE.into(),
        KernelLog::Unread => format!("{CMDLINE} quiet"),
    }
}
