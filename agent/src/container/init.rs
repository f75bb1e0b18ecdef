//! What a container's first process does, from the clone to the workload's exec.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, sethostname, setsid};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::cgroup_mount::View;
use super::cgroups::Cgroup;
use super::channel::{Channel, Report};
use super::config::ConfigError;
use super::create::Options;
use super::crossing::{Crossing, Side};
use super::devices::Device;
use super::error::{InitError, Step};
use super::hooks::{HookError, Hooks};
use super::mounts::{self, Made, Mount};
use super::namespaces::Namespaces;
use super::passage::Passage;
use super::procfs::Proc;
use super::rootfs::{self, Propagation, Rootfs, clone_tree_for_another};
use super::safe_path::{self, Kind};
use super::terminal::Terminal;
use super::workload::{UMASK, Workload};
use super::{devices, id_map, joined_proc, masked, network, sys, sysctl, user};

/// A configuration, understood: what the init goes by.
pub(super) struct Plan<'a> {
    root: &'a Path,
    /// The root's mount, if the engine has cloned it.
    tree: Option<OwnedFd>,
    linux: &'a Linux,
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
            tree: None,
            linux,
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

    /// What becomes the container's first process.
    pub(super) fn workload(&self) -> &Workload<'_> {
        &self.workload
    }

    /// The engine: maps the owners of files on those mounts that ask for it.
    pub(super) fn map_ids(&mut self) -> Result<(), InitError> {
        Mount::map_ids(&mut self.mounts, self.linux)
    }

    /// The engine: opens what the root of a user namespace may have no right to.
    pub(super) fn open_sources(&mut self) -> Result<(), InitError> {
        self.tree = clone_tree_for_another(self.root, true)
            .step(|| format!("bind root.path {}", self.root.display()))?;
        for mount in &mut self.mounts {
            mount.open_source()?;
        }
        Ok(())
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

/// The whole life of the init. Returns, with an exit status, only if it fails.
pub(super) fn run(plan: &mut Plan<'_>, surroundings: &Surroundings<'_>, engine: Channel) -> i32 {
    match become_ready(plan, surroundings, &engine, None) {
        Ok(file) => start(plan, surroundings, engine, &file),
        Err(error) => engine.give_up(&error),
    }
}

/// The whole life of the init of a container in whose pid namespace others are already, and of
/// the process outside that it is made by.
pub(super) fn run_outside(
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
    crossing: &Crossing,
    engine: Channel,
) -> i32 {
    let mut crossed = || {
        let file = become_ready(plan, surroundings, &engine, Some(crossing))?;
        // SAFETY: this is a fork of a process with a single thread.
        let side = unsafe { crossing.cross(plan.workload.passage()) };
        Ok((side.step(|| "make a process in the container")?, file))
    };
    match crossed() {
        Ok((Side::Outside, _)) => 0,
        Ok((Side::Inside, file)) => match plan.workload.begin_inside(&engine) {
            Ok(()) => start(plan, surroundings, engine, &file),
            Err(error) => engine.give_up(&error),
        },
        Err(error) => engine.give_up(&error),
    }
}

/// Everything up to the start. Returns the file to exec. With a crossing there is one to be made
/// next.
fn become_ready(
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
    engine: &Channel,
    crossing: Option<&Crossing>,
) -> Result<CString, InitError> {
    set_up(plan, surroundings, engine)?;
    match crossing {
        // The engine does it, for the process inside.
        Some(crossing) => {
            surroundings.namespaces.enter_pid_late()?;
            let prepared = crossing.prepare();
            prepared.step(|| "keep a page from the container")?;
        }
        None => plan.workload.set_scheduler(Pid::from_raw(0))?,
    }
    // SAFETY: nothing that is used from here on owns a descriptor, and the process ends without
    // dropping anything. This is a fork of a process with a single thread, which keeps no
    // variables.
    unsafe { Workload::let_go_of_the_host(engine, surroundings.options.preserve_fds) }?;
    let file = plan.workload.become_the_users(crossing.is_some())?;
    if crossing.is_some() {
        let step = || "tell the engine how it stands";
        engine.report(&Report::Crossing).step(step)?;
    }
    plan.workload.confine(engine)?;
    Ok(file)
}

/// Says that all is ready, waits for the start, and becomes the workload. It is the container's
/// own by now, and may be below a filter that forbids it all else.
fn start(plan: &Plan<'_>, surroundings: &Surroundings<'_>, engine: Channel, file: &CString) -> i32 {
    // Nobody is left who could start it, and with that all reason to be.
    let Some(starter) = wait_for_start(plan.workload.passage(), engine) else {
        return 1;
    };
    let failed = match run_start_hooks(surroundings.hooks, &starter) {
        Err(error) => error.into(),
        Ok(()) => plan.workload.exec(file),
    };
    starter.give_up(&failed)
}

/// Says that all is ready, and waits for the word to go on. Returns the line to who said it:
/// the engine, or if that sends a gate along, the one who comes there.
fn wait_for_start(passage: &Passage, engine: Channel) -> Option<Channel> {
    passage.say_ready(&engine).ok()?;
    let heard = passage.hear(&engine).ok()?;
    let Some(gate) = heard.fd else {
        return heard.go.then_some(engine);
    };
    // Until the gate has its word, there is one line, and no other.
    passage.close(engine);
    let starter = Channel::from(passage.accept(&gate).ok()?);
    passage.close(gate);
    passage.hear(&starter).ok()?.go.then_some(starter)
}

/// What is done before the init of a container that needs one is cloned
/// ([`Namespaces::need_stage`]).
pub(super) fn stage(plan: &Plan<'_>, surroundings: &Surroundings<'_>) -> Result<(), InitError> {
    let proc = Proc::open()?;
    let options = surroundings.options;
    plan.workload.use_the_callers_rights(&proc, None)?;
    plan.workload.leave_the_engine(&options.stdio)?;
    surroundings.namespaces.enter_as_stage()?;
    match surroundings.namespaces.has_new(LinuxNamespaceType::User) {
        true => Ok(()),
        false => id_map::check_joined(&proc, plan.linux),
    }
}

/// The first steps, up to being in the container's user namespace.
fn leave_the_engine(
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
    proc: &Proc,
    engine: &Channel,
) -> Result<(), InitError> {
    let namespaces = surroundings.namespaces;
    let stdio = &surroundings.options.stdio;
    if namespaces.have_company() {
        return leave_for_outside(plan, surroundings, proc, engine);
    }
    if !namespaces.has_user() {
        plan.workload.adjust_oom_score(proc, None)?;
        return plan.workload.leave_the_engine(stdio);
    }
    // Until the ids are mapped there is nobody that one could be.
    if !engine.wait_for_release().step(|| "hear from the engine")? {
        return Err(InitError::EngineGone);
    }
    namespaces.enter_time()?;
    user::become_root()?;
    match namespaces.need_stage() {
        true => setsid().map(drop).step(|| "start a session"),
        false => plan.workload.leave_the_engine(stdio),
    }
}

/// As [`leave_the_engine`], where others are in the container's pid namespace: up to being in all
/// of the container's namespaces but that.
fn leave_for_outside(
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
    proc: &Proc,
    engine: &Channel,
) -> Result<(), InitError> {
    let namespaces = surroundings.namespaces;
    plan.workload.use_the_callers_rights(proc, None)?;
    plan.workload
        .leave_the_engine(&surroundings.options.stdio)?;
    for mount in plan.mounts.iter_mut().filter(|mount| mount.is_new_proc()) {
        // SAFETY: this is a fork of a process with a single thread.
        mount.set_context(unsafe { joined_proc::open(namespaces) }?);
    }
    namespaces.enter_outside()?;
    let step = || "hear from the engine";
    engine.report(&Report::Unshared).step(step)?;
    if !engine.wait_for_release().step(step)? {
        return Err(InitError::EngineGone);
    }
    if !namespaces.has_user() {
        return Ok(());
    }
    namespaces.make_time_outside()?;
    user::become_root()?;
    match namespaces.has_new(LinuxNamespaceType::User) {
        true => Ok(()),
        false => id_map::check_joined(proc, plan.linux),
    }
}

/// Everything that takes the caller's rights or files, up to being in the container's root.
fn set_up(
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
    engine: &Channel,
) -> Result<(), InitError> {
    let options = surroundings.options;
    let proc = Proc::open()?;
    leave_the_engine(plan, surroundings, &proc, engine)?;
    let namespaces = surroundings.namespaces;
    namespaces.enter()?;
    if namespaces.has_new(LinuxNamespaceType::Network) {
        network::bring_loopback_up().step(|| "bring the loopback interface up")?;
    }
    // By the caller's /proc, which is out of the container's reach.
    sysctl::write(proc.as_fd(), &plan.sysctl)?;

    let run_hooks = || match surroundings.hooks {
        Some(hooks) => run_create_hooks(hooks, namespaces, engine),
        None => Ok(()),
    };
    let terminal = if namespaces.has_new(LinuxNamespaceType::Mount) {
        let (root, terminal) = assemble_root(plan, surroundings)?;
        run_hooks()?;
        root.enter(plan.readonly_root, options.no_pivot)?;
        terminal
    } else {
        let (root, terminal) = open_directory(plan)?;
        run_hooks()?;
        rootfs::change_root(&root)?;
        terminal
    };
    if let Some(terminal) = terminal {
        let master = terminal.become_streams()?;
        if !namespaces.have_company() {
            plan.workload.take_terminal()?;
        }
        let told = engine.report_with_fd(&Report::Terminal, Some(master.as_fd()));
        told.step(|| "pass the terminal on")?;
    }
    set_names(plan)?;
    if !options.no_new_keyring {
        plan.workload.join_keyring(options.id, &proc)?;
    }
    plan.workload.set_limits_and_labels(&proc)
}

/// The caller's files are still there, and the container's root can still be changed.
fn run_create_hooks(
    hooks: &Hooks<'_>,
    namespaces: &Namespaces,
    engine: &Channel,
) -> Result<(), InitError> {
    if hooks.has_runtimes() {
        let step = || "let the engine run hooks";
        engine.report(&Report::RuntimeHooks).step(step)?;
        if !engine.wait_for_release().step(step)? {
            return Err(InitError::EngineGone);
        }
    }
    if let Some(limit) = hooks.create_container_limit() {
        if namespaces.must_join_pid_early() {
            return Err(InitError::HooksSeen);
        }
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
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
) -> Result<(Rootfs, Option<Terminal>), InitError> {
    umask(Mode::empty());
    let mut root = Rootfs::attach(plan.root, plan.propagation, plan.tree.take())?;
    let view = View {
        cgroup: surroundings.cgroup,
        has_namespace: surroundings.namespaces.has_new(LinuxNamespaceType::Cgroup),
    };
    for mount in &plan.mounts {
        match mount.make(root.fd(), view)? {
            Some(Made::Unfinished(made)) => root.make_readonly_at_end(made),
            Some(Made::Kernels(made)) => root.remember(mount.destination(), made),
            None => {}
        }
    }
    if !plan.mounts.iter().any(Mount::is_bind_of_dev) {
        devices::make(root.fd(), &plan.devices)?;
    }
    let terminal = plan.workload.make_terminal(root.fd())?;
    if let Some(terminal) = &terminal {
        terminal.bind_console(root.fd())?;
    }
    make_cwd(plan, root.fd())?;
    masked::make_readonly(&root, plan.readonly_paths)?;
    masked::mask(&root, plan.masked_paths)?;
    Ok((root, terminal))
}

fn make_cwd(plan: &Plan<'_>, root: BorrowedFd<'_>) -> Result<(), InitError> {
    let cwd = plan.workload.cwd();
    if cwd == Path::new("/") {
        return Ok(());
    }
    safe_path::open_or_make(root, &mounts::clean(cwd), Kind::Directory)
        .map(drop)
        .step(|| format!("make process.cwd {}", cwd.display()))
}

/// The root of a container without a mount namespace of its own: a directory as it is, in which
/// nothing is mounted or made but the working directory.
fn open_directory(plan: &Plan<'_>) -> Result<(OwnedFd, Option<Terminal>), InitError> {
    umask(Mode::empty());
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(plan.root, flags, Mode::empty())
        .step(|| format!("open root.path {}", plan.root.display()))?;
    let terminal = plan.workload.make_terminal(root.as_fd())?;
    make_cwd(plan, root.as_fd())?;
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
