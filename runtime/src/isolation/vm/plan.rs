//! A container's plan: all that is decided before anything is made.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nacre_agent::container::{Identity, cgroups::Place, check_console_socket};
use oci_spec::runtime::Spec;

use crate::{
    config::{
        Vm,
        annotations::Annotations,
        bundle::Bundle,
        rootfs::Upper,
        size::{Host, Size},
    },
    id::Id,
    isolation::{console, descriptors, hooks, new_record},
    state::{
        By, Record,
        record::{self, Progress},
    },
    systemd::Systemd,
};

use super::{
    How, Options, VmError,
    guest_spec::{self, Guest, Shared},
    hypervisor::Hypervisor,
    limits::{self, HostLimits},
    nested, network, terminal,
};

/// All that the sandbox process needs: checked, opened, and nothing of it created yet.
pub(super) struct Plan {
    pub(super) id: Id,
    pub(super) options: Options,
    pub(super) hypervisor: Hypervisor,
    /// Where QEMU is.
    pub(super) qemu: PathBuf,
    pub(super) size: Size,
    /// Whether the container can make VMs of its own.
    pub(super) nested: bool,
    /// Where what the container writes to its root is kept; `None` if that is the host's.
    pub(super) upper: Option<Upper>,
    /// The sandbox process's.
    pub(super) cgroup: Option<Place>,
    pub(super) limits: HostLimits,
    pub(super) boot_timeout: Duration,
    /// How long the guest may say nothing.
    pub(super) watchdog: Duration,
    pub(super) kernel: File,
    pub(super) agent: File,
    pub(super) console_log: Option<File>,
    pub(super) network: network::Namespace,
    /// The guest's.
    pub(super) spec: Spec,
    pub(super) shared: Shared,
    /// What is written down first.
    pub(super) record: Record,
    /// The container's `config.json`.
    pub(super) config: Vec<u8>,
    pub(super) hooks: hooks::OfCreation,
    /// Where the container's terminal goes, connected.
    pub(super) console_socket: Option<OwnedFd>,
    /// Or what it shows at.
    pub(super) own_terminal: Option<OwnedFd>,
}

/// Refuses what the caller has open and wants the container to have.
fn refuse_descriptors(options: &Options) -> Result<(), VmError> {
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
        config: &Vm,
        options: Options,
    ) -> Result<Self, VmError> {
        refuse_descriptors(&options)?;
        let host = host().map_err(VmError::host("can't ask how large the host is"))?;
        let Bundle {
            directory,
            spec: asked,
            json,
        } = bundle;
        let linux = asked.linux().as_ref();
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let size = Size::choose(annotations, resources, config, host)?;
        let upper = Upper::choose(annotations, config, size.memory)?;
        let nested = nested::asked(annotations.nested, config.nested)?;
        let guest = Guest {
            vcpus: size.cpus,
            overlay: upper.is_some(),
            nested,
        };
        let (mut spec, shared) = guest_spec::translate(&directory, asked.clone(), &id, &guest)?;
        let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let cgroup = match options.systemd_cgroup {
            true => {
                Systemd::check_runs()?;
                Place::find_scope(cgroups_path, id.as_str())?
            }
            false => Place::find(cgroups_path, id.as_str())?,
        };
        // What is wrong with the bundle comes before what is wrong with the host.
        let preference = Hypervisor::asked(
            options.hypervisor,
            annotations.hypervisor,
            config.hypervisor,
        )?;
        let qemu = config.qemu();
        let hypervisor = preference.choose(&qemu)?;
        if nested {
            nested::check(hypervisor)?;
        }
        let overhead = config.overhead_memory.map(|bytes| bytes.0);
        let overhead = overhead.unwrap_or_else(|| limits::default_overhead(hypervisor));
        let limits = HostLimits::new(resources, size, overhead);
        let network = network::Namespace::of(&asked);
        let vm = record::Vm {
            // Of the sandbox process, once there is one.
            sandbox: Identity {
                pid: 0,
                start_time: 0,
            },
            stand_in: None,
            cgroup: cgroup.as_ref().map(Place::cgroup),
            network: network.path().map(Path::to_owned),
            hypervisor,
            size,
            memory_limit: resources.and_then(limits::of_memory),
            guest_kernel: None,
            start_hooks: hooks::seconds_of_start(&asked),
            progress: Progress::Creating,
            paused: false,
            upper: upper.clone(),
            keep: options.how.keeps(),
            end: None,
        };
        let mut record = new_record(&id, directory, &asked, By::Vm(vm));
        record.rootfs = shared.root.clone();
        let hooks = hooks::OfCreation::of(&asked);
        let has_terminal = console::has_terminal(asked.process().as_ref());
        let in_foreground = matches!(options.how, How::InForeground { .. });
        let socket = options.console_socket.as_deref();
        let console_socket = console::connect(socket, has_terminal, !in_foreground)?;
        if let Some(socket) = &console_socket {
            check_console_socket(socket.as_fd(), has_terminal)?;
        }
        let own_terminal = match has_terminal && in_foreground {
            true => {
                let found = console::find();
                Some(found.map_err(VmError::host("can't use the terminal of this process"))?)
            }
            false => None,
        };
        if let (Some(_), Some(process)) = (&own_terminal, spec.process_mut()) {
            terminal::fit(process);
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
        Ok(Self {
            id,
            options,
            hypervisor,
            qemu,
            size,
            nested,
            upper,
            cgroup,
            limits,
            boot_timeout: config.boot_timeout(),
            watchdog: config.watchdog(),
            kernel,
            agent,
            console_log,
            network,
            spec,
            shared,
            record,
            config: json,
            hooks,
            console_socket,
            own_terminal,
        })
    }
}

/// Opens a file that every VM needs.
fn open_component(what: &'static str, path: &Path, remedy: &'static str) -> Result<File, VmError> {
    File::open(path)
        .and_then(|file| match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("not a file")),
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

/// What the host has for VMs.
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
