//! The second step of the sandbox process: the machine with its devices, in its monitor's process, and
//! the host's ends of what they carry.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use nacre_agent::protocol::{CONTROL_PORT, Streams};
use nacre_vmm::{
    MAX_DEVICES, MAX_QEMU_DEVICES,
    devices::virtio::{
        VirtioDevice,
        fs::FileServer,
        rng::Rng,
        vhost_user::RemoteDevice,
        vsock::{Ports, Vsock},
    },
    monitor::Monitor,
};
use oci_spec::runtime::Spec;
use rustix::event::{EventfdFlags, eventfd};

use crate::{
    config::{hypervisor::Hypervisor, rates::Rates, rootfs::Upper},
    id::Id,
    isolation::vm::{
        control::Control,
        error::VmError,
        limits,
        network::CarriedNetwork,
        plan::MachinePlan,
        streams::{self, Expected, Relays},
        terminal::Terminal,
    },
    log,
};

use super::{
    disk::Disk,
    file_policy::FilePolicy,
    logs::Logs,
    monitor::{self, Parts, Unshared},
    prepare::Site,
};

/// The guest's vsock context id. Each VM has a vsock of its own, so it needn't be unique.
const GUEST_CID: u64 = 3;

/// Vsock and entropy.
const OTHER_DEVICES: usize = 2;

/// What there is to be besides the machine itself.
pub(super) struct Wanted<'a> {
    pub(super) id: &'a Id,
    pub(super) spec: &'a Spec,
    pub(super) upper: Option<&'a Upper>,
    pub(super) rates: Rates,
    /// The socket that the container's terminal goes to.
    pub(super) console_socket: Option<OwnedFd>,
}

/// A machine that is being made, and what belongs to it on the host.
pub(super) struct Devices<'a> {
    pub(super) monitor: Monitor,
    /// What the monitor has to say.
    pub(super) logs: Logs,
    pub(super) control: Control,
    pub(super) stdio: GuestStdio,
    pub(super) disk: Option<Disk>,
    pub(super) file_server: Arc<FileServer>,
    /// The eventfd that signals that the guest holds many of the host's files.
    pub(super) file_alarm: Arc<OwnedFd>,
    pub(super) file_policy: FilePolicy,
    pub(super) network: &'a mut CarriedNetwork,
}

/// The standard streams of the container's first process, which the guest is to connect.
pub(super) struct GuestStdio {
    /// The ports that it connects them to.
    pub(super) ports: Streams,
    pub(super) relays: Relays,
    /// The terminal, if the process has one.
    pub(super) terminal: Option<Terminal>,
    /// The ports of processes that are started later.
    pub(super) expected: Expected,
}

/// Has the machine made with its devices, by a monitor, and its files served: both are processes that
/// this one makes while it has a single thread. The network has to be undone, even after an error.
pub(super) fn make<'a>(
    mut machine: MachinePlan,
    wanted: Wanted<'_>,
    site: &Site<'_>,
    network: &'a mut Option<CarriedNetwork>,
) -> Result<Devices<'a>, VmError> {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let file_alarm = eventfd(0, flags)
        .map_err(io::Error::from)
        .map_err(VmError::host("can't make an eventfd"))?;
    let file_alarm = Arc::new(file_alarm);
    let (file_server, systems) = serve_files(&machine, &wanted, site, &file_alarm)?;
    let file_server = Arc::new(file_server);
    let file_policy = FilePolicy::new(Arc::clone(&file_server) as _, wanted.spec);
    let vcpus = machine.size.cpus;
    let is_emulated = machine.hypervisor == Hypervisor::Qemu;
    let room = room(machine.hypervisor, systems.len(), wanted.upper);
    let network = network.insert(CarriedNetwork::open(vcpus as u8, is_emulated, room)?);
    let unshared = Unshared::note(&machine, &systems);
    let mut unshared = unshared.map_err(VmError::host("can't see what is open"))?;
    let (vsock, ports) =
        Vsock::new(GUEST_CID).map_err(VmError::host("can't make a vsock device"))?;
    unshared.add(ports.as_raw_fd());
    let (logs, monitor_ends) = Logs::make(machine.console_log.take())
        .map_err(VmError::host("can't make pipes for the logs"))?;
    logs.ends().for_each(|end| unshared.add(end));
    let disk = match wanted.upper {
        Some(Upper::Disk { size, directory }) => Some(Disk::make(directory, *size)?),
        _ => None,
    };
    let mut devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(vsock), Box::new(Rng::new())];
    for device in systems {
        devices.push(Box::new(device));
    }
    if let Some(disk) = &disk {
        devices.push(Box::new(disk.device(vcpus, wanted.rates.disk)?));
    }
    let parts = Parts {
        name: wanted.id.to_string(),
        devices,
        nic_slots: network.slots(),
        rates: wanted.rates,
        disk_size: match wanted.upper {
            Some(Upper::Disk { size, .. }) => *size,
            _ => 0,
        },
    };
    let monitor = monitor::make(machine, parts, unshared, monitor_ends, &site.words)?;
    let control = ports
        .expect(CONTROL_PORT)
        .and_then(Control::new)
        .map_err(VmError::host("can't make the control connection"))?;
    let stdio = GuestStdio::expect(wanted, ports)?;
    Ok(Devices {
        monitor,
        logs,
        control,
        stdio,
        disk,
        file_server,
        file_alarm,
        file_policy,
        network,
    })
}

/// Returns how many devices there is room for besides those that every such machine has, and `systems`
/// of files.
fn room(hypervisor: Hypervisor, systems: usize, upper: Option<&Upper>) -> usize {
    let most = match hypervisor {
        Hypervisor::Qemu => MAX_QEMU_DEVICES,
        Hypervisor::Kvm => MAX_DEVICES,
    };
    let disks = usize::from(matches!(upper, Some(Upper::Disk { .. })));
    most.saturating_sub(OTHER_DEVICES + systems + disks)
}

/// Makes the process that serves files, and its devices.
fn serve_files(
    machine: &MachinePlan,
    wanted: &Wanted<'_>,
    site: &Site<'_>,
    alarm: &Arc<OwnedFd>,
) -> Result<(FileServer, Vec<RemoteDevice>), VmError> {
    let files = limits::files(machine.size.memory);
    let share = site
        .share
        .for_server(files, Arc::clone(alarm), wanted.rates.files);
    let words = format!("nacre: serves files to {}", wanted.id);
    let settle = || {
        log::silence();
        // SAFETY: these words are a copy of the sandbox process's, in a process that has a single
        // thread.
        unsafe {
            site.words.replace(&words);
        }
        site.share.policy()
    };
    // SAFETY: nothing before this has made a thread.
    let spawned = unsafe { FileServer::spawn(share, settle) };
    spawned.map_err(VmError::host("can't make the process that serves files"))
}

impl GuestStdio {
    /// Makes the terminal, if the process is to have one, and expects the streams.
    fn expect(wanted: Wanted<'_>, ports: Ports) -> Result<Self, VmError> {
        let terminal = match wanted.spec.process() {
            Some(process) => Terminal::new(process, wanted.console_socket)
                .map_err(VmError::host("can't make the container's terminal"))?,
            None => None,
        };
        if let Some(terminal) = &terminal {
            terminal.control().map_err(VmError::host(
                "can't make the container's terminal this process's",
            ))?;
        }
        let failed = || VmError::host("can't make the standard streams' connections");
        let mut expected = Expected::new(ports);
        let wanted = streams::Wanted::new(terminal.as_ref()).map_err(failed())?;
        let (ports, ends) = expected.expect(wanted).map_err(failed())?;
        let relays = Relays::new(wanted, terminal.as_ref(), ends)
            .ok_or_else(|| failed()(io::ErrorKind::InvalidData.into()))?;
        Ok(Self {
            ports,
            relays,
            terminal,
            expected,
        })
    }
}
