//! Isolation by a microVM: a container's plan, the sandbox process that carries it out, and
//! the commands, which have it do what is asked.

mod bind_source;
mod caller;
mod client;
mod clients;
mod control;
mod difference;
mod disk;
mod events;
mod exec;
mod executed;
mod guest_devices;
mod guest_hooks;
mod guest_spec;
pub(crate) mod hypervisor;
mod initramfs;
mod kernel_files;
mod kill;
mod limits;
pub(crate) mod network;
mod pause;
mod ps;
mod sandbox;
mod security_modules;
mod service;
mod session;
mod share;
mod start;
mod streams;
mod terminal;
mod update;
mod watchdog;
mod wire;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nacre_agent::container::{
    ConsoleSocketError, Identity,
    cgroups::{Cgroup, CgroupError, Place},
    check_console_socket,
    hooks::HookError,
};
use oci_spec::runtime::Spec;

use crate::{
    config::{
        Vm,
        annotations::Annotations,
        bundle::Bundle,
        rootfs::{RootfsError, Upper},
        size::{Bytes, Host, Size, SizeError},
    },
    id::Id,
    isolation::{
        EXEC_FAILED, StatusError,
        console::{self, ConsoleError},
        hooks, new_record,
        pid_file::PidFileError,
    },
    log::chain,
    state::{
        By, Record, StateError, Status, Store,
        record::{self, Progress},
    },
};

use client::ClientError;
use disk::DiskError;
use guest_spec::{GuestSpecError, Shared};
use hypervisor::{Hypervisor, HypervisorError};
use limits::HostLimits;
use network::NetworkError;
use security_modules::SecurityModuleError;
use session::SessionError;
use share::ShareError;
use update::UpdateError;

pub(crate) use difference::difference;
pub(crate) use events::{Event, stats, watch};
pub(crate) use exec::exec;
pub(crate) use kill::{end, kill};
pub(crate) use pause::{pause, resume};
pub(crate) use ps::{processes, ps_table};
pub(crate) use start::start;
pub(crate) use update::update;
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
    /// Where to write the sandbox process's pid.
    pub(crate) pid_file: Option<PathBuf>,
    /// Where its terminal's master is sent.
    pub(crate) console_socket: Option<PathBuf>,
    /// Leave the container in its guest's session keyring instead of one of its own.
    pub(crate) no_new_keyring: bool,
    /// Have the guest kernel log what it does.
    pub(crate) debug: bool,
    /// What is to run the VM, if the command line says so.
    pub(crate) hypervisor: Option<Hypervisor>,
}

/// All that the sandbox process needs: checked, opened, and nothing of it created yet.
struct Plan {
    id: Id,
    options: Options,
    hypervisor: Hypervisor,
    /// Where QEMU is.
    qemu: PathBuf,
    size: Size,
    /// Where what the container writes to its root is kept; `None` if that is the host's.
    upper: Option<Upper>,
    /// The sandbox process's.
    cgroup: Option<Place>,
    limits: HostLimits,
    boot_timeout: Duration,
    /// How long the guest may say nothing.
    watchdog: Duration,
    kernel: File,
    agent: File,
    console_log: Option<File>,
    network: network::Namespace,
    /// The guest's.
    spec: Spec,
    shared: Shared,
    /// What is written down first.
    record: Record,
    /// The container's `config.json`.
    config: Vec<u8>,
    hooks: hooks::OfCreation,
    /// Where the container's terminal goes, connected.
    console_socket: Option<OwnedFd>,
    /// Or what it shows at.
    own_terminal: Option<OwnedFd>,
}

/// Why a container can't be run in a VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    #[error(transparent)]
    Hypervisor(#[from] HypervisorError),
    #[error("can't open the {what} {path}: {source}; {remedy}")]
    Component {
        what: &'static str,
        path: PathBuf,
        remedy: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    GuestSpec(#[from] GuestSpecError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("exec failed: unable to start container process")]
    Exec(#[source] ClientError),
    #[error("exec failed: unable to start container process")]
    ExecProcess(#[from] SecurityModuleError),
    #[error("--preserve-fds: a VM has no way to the caller's files")]
    PreserveFds,
    #[error(
        "ps {0:?} isn't known in a VM, where there is no ps: there are -e, -f and -o with pid, \
         ppid, uid, user, c, stime, etimes, tty, time, times, cmd, args and command"
    )]
    PsArgument(String),
    #[error("couldn't find PID field in ps output")]
    NoPidInPs,
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error(transparent)]
    ConsoleSocket(#[from] ConsoleSocketError),
    #[error(transparent)]
    Share(#[from] ShareError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error("can't make the VM")]
    Make(#[source] nacre_vmm::Error),
    #[error("the VM failed: {}{}", chain(.0), Console(.0.console_tail().unwrap_or_default()))]
    Failed(nacre_vmm::Error),
    #[error("{error}{}", Console(.console))]
    Session {
        error: SessionError,
        /// The last lines of the guest's console, where they may say why.
        console: String,
    },
    #[error("{what}")]
    Host {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error("the sandbox process was killed by {0}")]
    Killed(nix::sys::signal::Signal),
    #[error(
        "the host killed {what} for want of memory: the VM's cgroup may have {limit}, which is its \
         guest's memory and what vm.overhead-memory in the configuration file adds, or there was \
         no more for it"
    )]
    HostMemory { what: &'static str, limit: Bytes },
}

impl VmError {
    /// What the command exits with.
    pub(crate) fn exit_status(&self) -> u8 {
        match self {
            Self::Session { error, .. } => match error {
                // 0 would mean that the workload had run and succeeded.
                SessionError::Refused(failure) => failure.status.max(1),
                SessionError::Interrupted(signal) => 128 + *signal as u8,
                _ => 1,
            },
            Self::Killed(signal) => 128 + *signal as u8,
            Self::HostMemory { .. } => 128 + libc::SIGKILL as u8,
            Self::Client(ClientError::Refused(failure)) => failure.status.max(1),
            Self::Exec(ClientError::Refused(failure)) => match failure.status {
                // As runc has it, except that a program's absence can be told.
                0 | 1 => EXEC_FAILED,
                status => status,
            },
            Self::Exec(_) | Self::ExecProcess(_) | Self::PreserveFds => EXEC_FAILED,
            Self::Status(error) => error.exit_status(),
            _ => 1,
        }
    }

    /// What killed something of a VM whose cgroup this is, if that was the want of memory.
    fn host_memory(what: &'static str, cgroup: Option<&Cgroup>) -> Option<Self> {
        let cgroup = cgroup?;
        let limit = Bytes(cgroup.stats().ok()?.memory.usage.limit);
        (cgroup.oom_kills().ok()? > 0).then_some(Self::HostMemory { what, limit })
    }

    fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

impl From<SessionError> for VmError {
    fn from(error: SessionError) -> Self {
        Self::Session {
            error,
            console: String::new(),
        }
    }
}

/// The last lines of a guest's console at the end of an error, if there are any.
struct Console<'a>(&'a str);

/// What an error calls the process.
const SANDBOX: &str = "the sandbox process";

/// How much of a console an error quotes.
const CONSOLE_LINES: usize = 8;

/// How the line begins with which a kernel panics.
const PANIC: &str = "Kernel panic - not syncing";

impl fmt::Display for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<&str> = self.0.lines().filter(|l| !l.trim().is_empty()).collect();
        if lines.is_empty() {
            return Ok(());
        }
        // A panic's reason comes before a long trace.
        let (says, from) = match lines.iter().rposition(|line| line.contains(PANIC)) {
            Some(panic) => ("the guest's console says", panic),
            None => (
                "the guest's console ends with",
                lines.len().saturating_sub(CONSOLE_LINES),
            ),
        };
        let quoted = &lines[from..lines.len().min(from + CONSOLE_LINES)];
        write!(f, "; {says}: {}", quoted.join(" | "))
    }
}

/// What the host has for VMs.
pub(crate) fn host() -> io::Result<Host> {
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

/// What went wrong with a container that has ended, if it wasn't the workload that did.
pub(crate) fn failure(vm: &record::Vm) -> Option<String> {
    match &vm.end {
        Some(end) => end.failure.clone(),
        None => {
            let error = VmError::host_memory(SANDBOX, vm.cgroup.as_ref());
            let error = error.unwrap_or(VmError::Killed(nix::sys::signal::Signal::SIGKILL));
            Some(chain(&error))
        }
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

impl Plan {
    fn new(
        id: Id,
        bundle: Bundle,
        annotations: &Annotations,
        config: &Vm,
        options: Options,
    ) -> Result<Self, VmError> {
        let host = host().map_err(VmError::host("can't ask how large the host is"))?;
        let resources = bundle
            .spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.resources().as_ref());
        let size = Size::choose(annotations, resources, config, host)?;
        let upper = Upper::choose(annotations, config, size.memory)?;
        let linux = bundle.spec.linux().as_ref();
        let cgroups_path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let cgroup = Place::find(cgroups_path, id.as_str())?;
        let preferred = Hypervisor::preferred(
            options.hypervisor,
            annotations.hypervisor,
            config.hypervisor,
        );
        let qemu = config.qemu();
        let hypervisor = preferred.choose(&qemu)?;
        let overhead = config.overhead_memory.map(|bytes| bytes.0);
        let overhead = overhead.unwrap_or_else(|| limits::default_overhead(hypervisor));
        let limits = HostLimits::new(resources, size, overhead);
        let network = network::Namespace::of(&bundle.spec);
        let vm = record::Vm {
            // Of the sandbox process, once there is one.
            sandbox: Identity {
                pid: 0,
                start_time: 0,
            },
            cgroup: cgroup.as_ref().map(Place::cgroup),
            network: network.path().map(Path::to_owned),
            hypervisor,
            size,
            guest_kernel: None,
            progress: Progress::Creating,
            paused: false,
            upper: upper.clone(),
            keep: options.how.keeps(),
            end: None,
        };
        let mut record = new_record(&id, bundle.directory.clone(), &bundle.spec, By::Vm(vm));
        let config_json = bundle.json.clone();
        let hooks = hooks::OfCreation::of(&bundle.spec);
        let has_terminal = console::has_terminal(bundle.spec.process().as_ref());
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
        let (mut spec, shared) = guest_spec::translate(bundle, &id, size.cpus, upper.is_some())?;
        record.rootfs = shared.root.clone();
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
            config: config_json,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_ends_with_the_consoles_last_lines() {
        let console = (0..20).map(|i| format!("line {i}\n\n")).collect::<String>();
        let error = VmError::Session {
            error: SessionError::NoHello(Duration::from_secs(3)),
            console,
        };
        assert_eq!(
            error.to_string(),
            "the guest didn't say hello within 3 s; the guest's console ends with: line 12 | \
             line 13 | line 14 | line 15 | line 16 | line 17 | line 18 | line 19"
        );
    }

    #[test]
    fn an_error_has_the_reason_of_a_panic() {
        let trace = (0..20).map(|i| format!("? {i}\n")).collect::<String>();
        let error = VmError::Session {
            error: SessionError::NoHello(Duration::from_secs(3)),
            console: format!("before\n[ 1.2] Kernel panic - not syncing: no init\n{trace}"),
        };
        let message = error.to_string();
        assert!(
            message.contains(
                "; the guest's console says: [ 1.2] Kernel panic - not syncing: no init | ? 0 | "
            ),
            "{message}"
        );
        assert!(message.ends_with("| ? 6"), "{message}");
    }

    #[test]
    fn a_refusal_never_exits_with_success() {
        let refused = |status| {
            let failure = nacre_agent::protocol::Failure {
                message: String::new(),
                status,
            };
            VmError::from(SessionError::Refused(failure)).exit_status()
        };
        assert_eq!((refused(127), refused(126), refused(0)), (127, 126, 1));
    }

    #[test]
    fn the_host_has_something() {
        let host = host().unwrap();
        assert!(host.cpus >= 1 && host.memory > 64 << 20);
    }
}
