//! What a container's first process does, from the clone to the workload's exec.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{Mode, umask};
use nix::unistd::sethostname;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::cgroup_mount::View;
use super::cgroups::Cgroup;
use super::channel::{Channel, Report};
use super::config::ConfigError;
use super::create::Options;
use super::devices::Device;
use super::error::{InitError, Step};
use super::gate::Gate;
use super::hooks::{HookError, Hooks};
use super::mounts::{self, Mount};
use super::namespaces::Namespaces;
use super::procfs::Proc;
use super::rootfs::{Propagation, Rootfs};
use super::safe_path::{self, Kind};
use super::terminal::Terminal;
use super::workload::{UMASK, Workload};
use super::{devices, masked, network, sys, sysctl};

/// A configuration, understood: what the init goes by.
pub(super) struct Plan<'a> {
    root: &'a Path,
    readonly_root: bool,
    propagation: Propagation,
    mounts: Vec<Mount>,
    devices: Vec<Device>,
    masked_paths: &'a [String],
    readonly_paths: &'a [String],
    sysctl: BTreeMap<&'a str, &'a str>,
    hostname: &'a str,
    domainname: &'a str,
    workload: Workload<'a>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(spec: &'a Spec) -> Result<Self, ConfigError> {
        let missing = |field: &str| ConfigError::missing(field);
        let root = spec.root().as_ref().ok_or_else(|| missing("root"))?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        let mounts = spec.mounts().iter().flatten().enumerate();
        let propagation = linux.rootfs_propagation().as_deref().unwrap_or_default();
        let mut mounts = mounts
            .map(|(index, mount)| Mount::parse(index, mount))
            .collect::<Result<Vec<_>, _>>()?;
        let label = linux.mount_label().as_deref().unwrap_or_default();
        if !label.is_empty() {
            if !mounts::has_labels() {
                let problem = "SELinux isn't enabled on this kernel";
                return Err(ConfigError::invalid("linux.mountLabel", problem));
            }
            mounts.iter_mut().for_each(|mount| mount.label(label));
        }
        Ok(Plan {
            root: root.path(),
            readonly_root: root.readonly() == Some(true),
            propagation: Propagation::parse(propagation).unwrap_or_default(),
            mounts,
            devices: devices::list(linux.devices().as_deref().unwrap_or_default())?,
            masked_paths: linux.masked_paths().as_deref().unwrap_or_default(),
            readonly_paths: linux.readonly_paths().as_deref().unwrap_or_default(),
            sysctl: linux
                .sysctl()
                .iter()
                .flatten()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect(),
            hostname: spec.hostname().as_deref().unwrap_or_default(),
            domainname: spec.domainname().as_deref().unwrap_or_default(),
            workload: Workload::new(process, linux)?,
        })
    }
}

impl Plan<'_> {
    /// `root.path`.
    pub(super) fn root(&self) -> &Path {
        self.root
    }

    /// `process.terminal`.
    pub(super) fn has_terminal(&self) -> bool {
        self.workload.has_terminal()
    }
}

/// What the init is given besides the plan.
pub(super) struct Surroundings<'a> {
    pub(super) namespaces: &'a Namespaces,
    pub(super) cgroup: Option<&'a Cgroup>,
    pub(super) hooks: Option<&'a Hooks<'a>>,
    pub(super) options: &'a Options<'a>,
}

/// What the init has when all is set up.
struct Prepared {
    /// The file to exec.
    file: CString,
    /// The master of the workload's terminal, for the engine.
    terminal: Option<OwnedFd>,
}

/// The whole life of the init. Returns, with an exit status, only if it fails.
pub(super) fn run(mut plan: Plan<'_>, surroundings: &Surroundings<'_>, engine: Channel) -> i32 {
    let mut listener = engine;
    let failed = match set_up(&mut plan, surroundings, &listener) {
        Err(error) => error,
        Ok(Prepared { file, terminal }) => {
            match wait_for_start(listener, terminal, surroundings.options.gate.as_ref()) {
                Some(starter) => {
                    listener = starter;
                    match run_start_hooks(surroundings.hooks, &listener) {
                        Err(error) => error.into(),
                        Ok(()) => plan.workload.exec(&file),
                    }
                }
                // Nobody is left who could start it, and with that all reason to be.
                None => return 1,
            }
        }
    };
    listener.give_up(&failed)
}

/// Says that all is ready, and waits for the word to go on. Returns the line to who said it.
fn wait_for_start(
    engine: Channel,
    terminal: Option<OwnedFd>,
    gate: Option<&Gate>,
) -> Option<Channel> {
    let fd = terminal.as_ref().map(AsFd::as_fd);
    engine.report_with_fd(&Report::Ready, fd).ok()?;
    // Or it would never be seen that all others have let go of it.
    drop(terminal);
    let released = |channel: Channel| channel.wait_for_release().ok()?.then_some(channel);
    let engine = released(engine)?;
    match gate {
        Some(gate) => {
            // It only lets go; somebody else says when to start.
            drop(engine);
            released(gate.wait().ok()?)
        }
        None => Some(engine),
    }
}

/// Everything up to the exec.
fn set_up(
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
    engine: &Channel,
) -> Result<Prepared, InitError> {
    let options = surroundings.options;
    let proc = Proc::open()?;
    plan.workload.leave_the_engine(&options.stdio, &proc)?;
    let namespaces = surroundings.namespaces;
    namespaces.enter()?;
    if namespaces.has_new(LinuxNamespaceType::Network) {
        network::bring_loopback_up().step(|| "bring the loopback interface up")?;
    }
    // By the caller's /proc, which is out of the container's reach.
    sysctl::write(proc.as_fd(), &plan.sysctl)?;

    let (root, terminal) = assemble_root(plan, surroundings)?;
    if let Some(hooks) = surroundings.hooks {
        run_create_hooks(hooks, engine)?;
    }
    root.enter(plan.readonly_root, options.no_pivot)?;
    let terminal = match terminal {
        Some(terminal) => Some(terminal.become_controlling()?),
        None => None,
    };
    set_names(plan)?;
    if !options.no_new_keyring {
        plan.workload.join_keyring(options.id, &proc)?;
    }
    let file = plan.workload.get_ready(options.preserve_fds, &proc)?;
    plan.workload.filter_for_listener(engine)?;
    Ok(Prepared { file, terminal })
}

/// The caller's files are still there, and the container's root can still be changed.
fn run_create_hooks(hooks: &Hooks<'_>, engine: &Channel) -> Result<(), InitError> {
    if hooks.has_runtimes() {
        let step = || "let the engine run hooks";
        engine.report(&Report::RuntimeHooks).step(step)?;
        if !engine.wait_for_release().step(step)? {
            return Err(Errno::EPIPE).step(step);
        }
    }
    if let Some(limit) = hooks.create_container_limit() {
        let step = || "tell the engine of hooks";
        engine.report(&Report::Hooks(limit.as_secs())).step(step)?;
        // The init makes files with exactly the mode that they are to have. Hooks don't.
        let own = umask(Mode::from_bits_truncate(UMASK));
        let ran = hooks.run_create_container();
        umask(own);
        ran?;
    }
    Ok(())
}

fn run_start_hooks(hooks: Option<&Hooks<'_>>, starter: &Channel) -> Result<(), HookError> {
    let Some((hooks, limit)) = hooks.and_then(|h| Some((h, h.start_container_limit()?))) else {
        return Ok(());
    };
    // If the starter is gone meanwhile, so be it: it has said the word.
    let _ = starter.report(&Report::Hooks(limit.as_secs()));
    hooks.run_start_container()
}

/// Mounts all that there is to be in the container, while the caller's files are still there,
/// and makes its terminal.
fn assemble_root(
    plan: &Plan<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<(Rootfs, Option<Terminal>), InitError> {
    umask(Mode::empty());
    let mut root = Rootfs::attach(plan.root, plan.propagation)?;
    let view = View {
        cgroup: surroundings.cgroup,
        has_namespace: surroundings.namespaces.has_new(LinuxNamespaceType::Cgroup),
    };
    for mount in &plan.mounts {
        if let Some(mount) = mount.make(root.fd(), view)? {
            root.make_readonly_at_end(mount);
        }
    }
    if !plan.mounts.iter().any(Mount::is_bind_of_dev) {
        devices::make(root.fd(), &plan.devices)?;
    }
    let terminal = plan.workload.make_terminal(root.fd())?;
    if let Some(terminal) = &terminal {
        terminal.bind_console(root.fd())?;
    }
    let cwd = plan.workload.cwd();
    if cwd != Path::new("/") {
        safe_path::open_or_make(root.fd(), &mounts::clean(cwd), Kind::Directory)
            .step(|| format!("make process.cwd {}", cwd.display()))?;
    }
    masked::make_readonly(root.fd(), plan.readonly_paths)?;
    masked::mask(root.fd(), plan.masked_paths)?;
    Ok((root, terminal))
}

fn set_names(plan: &Plan<'_>) -> Result<(), InitError> {
    if !plan.hostname.is_empty() {
        sethostname(plan.hostname).step(|| "set the hostname")?;
    }
    if !plan.domainname.is_empty() {
        sys::setdomainname(plan.domainname).step(|| "set the domainname")?;
    }
    Ok(())
}
