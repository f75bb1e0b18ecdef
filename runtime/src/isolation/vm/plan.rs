//! A container's plan: everything that is decided before anything is made.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nacre_agent::container::{Identity, cgroups::Place, check_console_socket, in_user_namespace};
use oci_spec::runtime::Spec;

use crate::{
    config::{
        VmSettings,
        annotations::Annotations,
        bundle::Bundle,
        hypervisor::Hypervisor,
        nested,
        rates::Rates,
        rootfs::Upper,
        size::{Host, Size},
    },
    id::Id,
    isolation::{console, descriptors, hooks, record::new_record},
    state::{
        By, Record,
        record::{self, Progress},
    },
    systemd::Systemd,
};

use super::{
    error::VmError,
    guest_spec::{self, Guest, Shared},
    limits::{self, HostLimits},
    network,
    options::{RunMode, VmOptions},
    terminal,
};

/// Everything that the sandbox process needs: checked and opened, with nothing created yet.
pub(super) struct Plan {
    pub(super) id: Id,
    pub(super) options: VmOptions,
    pub(super) machine: MachinePlan,
    /// Where what the container writes to its root is kept; `None` if the host's directory keeps
    /// it.
    pub(super) upper: Option<Upper>,
    /// How much of the host's disks and networks it can use.
    pub(super) rates: Rates,
    pub(super) limits: HostLimits,
    pub(super) boot_timeout: Duration,
    /// How long the guest may say nothing.
    pub(super) watchdog: Duration,
    pub(super) network: network::Namespace,
    /// The guest's configuration.
    pub(super) spec: Spec,
    pub(super) shared: Shared,
    /// The bundle's directory.
    bundle: PathBuf,
    /// The container's `config.json`, as asked for.
    asked: Spec,
    /// The same, as it was read.
    pub(super) config: Vec<u8>,
    pub(super) hooks: hooks::CreationHooks,
    /// The socket that the container's terminal goes to, connected.
    pub(super) console_socket: Option<OwnedFd>,
    /// Or the terminal that shows it.
    pub(super) own_terminal: Option<OwnedFd>,
}

/// The plan of the machine.
pub(super) struct MachinePlan {
    pub(super) hypervisor: Hypervisor,
    /// Where QEMU is.
    pub(super) qemu: PathBuf,
    pub(super) size: Size,
    /// Whether the container can make VMs of its own.
    pub(super) nested: bool,
    /// The sandbox process's cgroup.
    pub(super) cgroup: Option<Place>,
    pub(super) kernel: File,
    pub(super) agent: File,
    pub(super) console_log: Option<File>,
    pub(super) kernel_log: KernelLog,
}

/// Whether somebody reads what the guest kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KernelLog {
    Read,
    Unread,
}

/// Refuses descriptors that the caller has open and wants the container to have.
fn refuse_descriptors(options: &VmOptions) -> Result<(), VmError> {
    match (options.preserve_fds, descriptors::listen_fds()) {
        (0, None) => Ok(()),
        (0, Some(_)) => Err(VmError::Descriptors("LISTEN_FDS")),
        _ => Err(VmError::Descriptors("--preserve-fds")),
    }
}

impl Plan {
    pub(super) fn new(
        id: Id,
        bundle: Bundle,
        annotations: &Annotations,
        config: &VmSettings,
        options: VmOptions,
    ) -> Result<Self, VmError> {
        refuse_descriptors(&options)?;
        let host = host().map_err(VmError::host("can't ask how large the host is"))?;
        let Bundle {
            directory,
            spec: asked,
            json,
            ..
        } = bundle;
        let linux = asked.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let size = Size::choose(annotations, resources, config, host)?;
        let upper = Upper::choose(annotations, config, size.memory)?;
        let rates = Rates::choose(annotations, config)?;
        let nested = nested::asked(annotations.nested, config.nested)?;
        let guest = Guest {
            vcpus: size.cpus,
            overlay: upper.is_some(),
            nested,
            of_ordinary_user: in_user_namespace(),
        };
        let (mut spec, shared) = guest_spec::translate(&directory, asked.clone(), &id, &guest)?;
        let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let cgroup = if options.systemd_cgroup {
            Systemd::check_runs()?;
            Place::find_scope(cgroups_path, id.as_str())?
        } else {
            Place::find(cgroups_path, id.as_str())?
        };
        // Report what is wrong with the bundle before what is wrong with the host.
        let machine = MachinePlan::new(size, nested, cgroup, config, &options)?;
        let overhead = config.overhead_memory.map(|bytes| bytes.0);
        let overhead = overhead.unwrap_or_else(|| limits::default_overhead(machine.hypervisor));
        let limits = HostLimits::new(resources, size, overhead);
        let has_terminal = console::has_terminal(asked.process().as_ref());
        let in_foreground = matches!(options.mode, RunMode::InForeground { .. });
        let socket = options.console_socket.as_deref();
        let console_socket = console::connect(socket, has_terminal, !in_foreground)?;
        if let Some(socket) = &console_socket {
            check_console_socket(socket.as_fd(), has_terminal)?;
        }
        let own_terminal = if has_terminal && in_foreground {
            let found = console::find();
            Some(found.map_err(VmError::host("can't use the terminal of this process"))?)
        } else {
            None
        };
        if let (Some(_), Some(process)) = (&own_terminal, spec.process_mut()) {
            terminal::fit(process);
        }
        Ok(Self {
            id,
            options,
            machine,
            upper,
            rates,
            limits,
            boot_timeout: config.boot_timeout(),
            watchdog: config.watchdog(),
            network: network::Namespace::asked_for(&asked),
            spec,
            shared,
            bundle: directory,
            hooks: hooks::CreationHooks::new(&asked),
            asked,
            config: json,
            console_socket,
            own_terminal,
        })
    }

    /// Returns the record that is written first, by that sandbox process.
    pub(super) fn record(&self, sandbox: Identity) -> Record {
        let linux = self.asked.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let vm = record::VmRecord {
            sandbox,
            stand_in: None,
            cgroup: self.machine.cgroup.as_ref().map(Place::cgroup),
            network: self.network.path().map(Path::to_owned),
            landlocked: record::Landlocked::default(),
            hypervisor: self.machine.hypervisor,
            size: self.machine.size,
            memory_limit: resources.and_then(limits::of_memory),
            guest_kernel: None,
            start_hooks: hooks::seconds_of_start(&self.asked),
            progress: Progress::Creating,
            paused: false,
            upper: self.upper.clone(),
            keep: self.options.mode.keeps(),
            end: None,
        };
        let mut record = new_record(&self.id, self.bundle.clone(), &self.asked, By::Vm(vm));
        record.rootfs = self.shared.root.clone();
        record
    }
}

impl MachinePlan {
    fn new(
        size: Size,
        nested: bool,
        cgroup: Option<Place>,
        config: &VmSettings,
        options: &VmOptions,
    ) -> Result<Self, VmError> {
        let preference = options.hypervisor.preference()?;
        let qemu = config.qemu();
        let hypervisor = preference.choose(&qemu)?;
        if nested {
            nested::check(hypervisor)?;
        }
        let kernel = open_component(
            "guest kernel",
            &config.kernel(),
            "guest-kernel-config/build makes one, and vm.kernel in the configuration file says \
             where it is",
        )?;
        let agent = open_component(
            "agent",
            &config.agent(),
            "it is built with nacre, and vm.agent in the configuration file says where it is",
        )?;
        let console_log = match &config.console_log {
            Some(path) => Some(open_console_log(path)?),
            None => None,
        };
        let kernel_log = if options.debug || console_log.is_some() {
            KernelLog::Read
        } else {
            KernelLog::Unread
        };
        Ok(Self {
            hypervisor,
            qemu,
            size,
            nested,
            cgroup,
            kernel,
            agent,
            console_log,
            kernel_log,
        })
    }
}

/// Opens a file that every VM needs.
fn open_component(what: &'static str, path: &Path, remedy: &'static str) -> Result<File, VmError> {
    File::open(path)
        .and_then(|file| {
            if file.metadata()?.is_file() {
                Ok(file)
            } else {
                Err(io::Error::other("not a file"))
            }
        })
        .map_err(|source| VmError::Component {
            what,
            path: path.into(),
            remedy,
            source,
        })
}

fn open_console_log(path: &Path) -> Result<File, VmError> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|source| VmError::Component {
            what: "console log",
            path: path.into(),
            remedy: "vm.console-log in the configuration file says where it is",
            source,
        })
}

/// Returns what the host has for VMs.
fn host() -> io::Result<Host> {
    let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let cpus = (0..nix::sched::CpuSet::count())
        .filter(|cpu| cpus.is_set(*cpu).unwrap_or(false))
        .count();
    // SAFETY: sysinfo is plain old data, for which zeroes are valid, and the call fills it in.
    let info = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        if libc::sysinfo(&mut info) != 0 {
            return Err(io::Error::last_os_error());
        }
        info
    };
    Ok(Host {
        cpus: u32::try_from(cpus).unwrap_or(1).max(1),
        max_vcpus: nacre_vmm::MAX_VCPUS.into(),
        memory: info.totalram.saturating_mul(info.mem_unit.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_something() {
        let host = host().unwrap();
        assert!(host.cpus >= 1 && host.memory > 64 << 20);
    }
}
