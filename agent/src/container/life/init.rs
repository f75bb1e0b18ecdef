//! What a container's first process does, from the clone to the workload's exec.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, sethostname, setsid};
use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::joined_proc;
use super::options::Options;
use crate::container::cgroups::Cgroup;
use crate::container::config::devices::Device;
use crate::container::config::propagation::Propagation;
use crate::container::config::{ConfigError, ContainerConfig, LinuxConfig};
use crate::container::error::{HookError, InitError, Step};
use crate::container::fork::channel::{Channel, Report};
use crate::container::fork::crossing::{Crossing, Side};
use crate::container::fork::passage::Passage;
use crate::container::hooks::Hooks;
use crate::container::kernel::mount_calls::{Extent, clone_tree_for_another};
use crate::container::kernel::procfs::Proc;
use crate::container::kernel::safe_path::{self, FileKind, clean};
use crate::container::kernel::sys;
use crate::container::namespaces::entry::Namespaces;
use crate::container::namespaces::{id_map, loopback as network, sysctl};
use crate::container::process::program::ProgramFile;
use crate::container::process::terminal::Terminal;
use crate::container::process::user;
use crate::container::process::workload::{UMASK, Workload};
use crate::container::root::cgroup_mount::CgroupView;
use crate::container::root::file_system::has_labels;
use crate::container::root::mounts::{PendingMount, PlannedMount};
use crate::container::root::rootfs::{self, Rootfs};
use crate::container::root::{devices, masked};

/// What the init works from.
pub(crate) struct Plan<'a> {
    root: &'a Path,
    /// The root's mount, if the engine has cloned it.
    tree: Option<OwnedFd>,
    linux: &'a Linux,
    readonly_root: bool,
    propagation: Propagation,
    mounts: Vec<PlannedMount>,
    devices: Vec<Device>,
    masked_paths: &'a [String],
    readonly_paths: &'a [String],
    sysctl: BTreeMap<&'a str, &'a str>,
    hostname: &'a str,
    domainname: &'a str,
    workload: Workload<'a>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(config: ContainerConfig<'a>) -> Result<Self, ConfigError> {
        let ContainerConfig { spec, root, .. } = config;
        let LinuxConfig {
            linux,
            devices,
            propagation,
            memory_policy,
            seccomp,
        } = config.linux;
        let label = linux.mount_label().as_deref().unwrap_or_default();
        if !label.is_empty() && !has_labels() {
            let problem = "SELinux isn't enabled on this kernel";
            return Err(ConfigError::invalid("linux.mountLabel", problem));
        }
        let mounts = config.mounts.into_iter();
        Ok(Plan {
            root: root.path(),
            tree: None,
            linux,
            readonly_root: root.readonly() == Some(true),
            propagation,
            mounts: mounts.map(|m| PlannedMount::new(m, label)).collect(),
            devices,
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
            workload: Workload::new(config.process, linux, memory_policy, seccomp.as_ref())?,
        })
    }
}

impl Plan<'_> {
    /// Returns `root.path`.
    pub(crate) fn root(&self) -> &Path {
        self.root
    }

    /// Returns what becomes the container's first process.
    pub(crate) fn workload(&self) -> &Workload<'_> {
        &self.workload
    }

    /// The engine: maps the owners of files on the mounts that ask for it.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(crate) unsafe fn map_ids(&mut self, namespaces: &Namespaces) -> Result<(), InitError> {
        let joined = namespaces.joined_user();
        let joined = joined.map(AsFd::as_fd);
        // SAFETY: the caller's promise.
        unsafe { PlannedMount::map_ids(&mut self.mounts, self.linux, joined) }
    }

    /// The engine: opens what the root of a user namespace may have no right to.
    pub(crate) fn open_sources(&mut self) -> Result<(), InitError> {
        self.tree = clone_tree_for_another(self.root, Extent::Tree)
            .step(|| format!("bind root.path {}", self.root.display()))?;
        for mount in &mut self.mounts {
            mount.open_source()?;
            mount.respect_locks()?;
        }
        Ok(())
    }

    /// Whether `process.terminal` is set.
    pub(crate) fn has_terminal(&self) -> bool {
        self.workload.has_terminal()
    }
}

/// What the init gets besides the plan.
pub(crate) struct InitSurroundings<'a> {
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) cgroup: Option<&'a Cgroup>,
    pub(crate) hooks: Option<&'a Hooks<'a>>,
    pub(crate) options: &'a Options<'a>,
}

/// Runs the whole life of the init. Returns, with an exit status, only if it fails.
pub(crate) fn run(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
    engine: Channel,
) -> i32 {
    match become_ready(plan, surroundings, &engine, None) {
        Ok(file) => start(plan, surroundings, engine, &file),
        Err(error) => engine.give_up(&error),
    }
}

/// Runs the whole life of the init of a container whose pid namespace has others in it already, and
/// of the process outside that makes it.
pub(crate) fn run_outside(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
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

/// Does everything up to the start. Returns the file to exec. With `crossing` the caller has to
/// cross next.
fn become_ready(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
    engine: &Channel,
    crossing: Option<&Crossing>,
) -> Result<ProgramFile, InitError> {
    set_up(plan, surroundings, engine)?;
    match crossing {
        // The engine sets the scheduler, for the process inside.
        Some(crossing) => {
            surroundings.namespaces.enter_pid_late()?;
            let prepared = crossing.prepare();
            prepared.step(|| "keep a page from the container")?;
        }
        None => plan.workload.set_scheduler(Pid::from_raw(0))?,
    }
    // SAFETY: nothing that is used from here on owns a descriptor, and the process ends without
    // dropping anything. This is a fork of a process with a single thread, which keeps no
    // environment variables.
    unsafe { Workload::let_go_of_the_host(engine, surroundings.options.preserve_fds) }?;
    let file = plan.workload.become_the_users(crossing.is_some())?;
    if crossing.is_some() {
        let step = || "tell the engine how it stands";
        engine.report(&Report::Crossing).step(step)?;
    }
    plan.workload.confine(engine)?;
    Ok(file)
}

/// Reports that all is ready, waits for the start, and becomes the workload. By now the process
/// belongs to the container, and its filter may forbid it anything else.
fn start(
    plan: &Plan<'_>,
    surroundings: &InitSurroundings<'_>,
    engine: Channel,
    file: &ProgramFile,
) -> i32 {
    // Nobody can start it any more, so it ends.
    let Some(starter) = wait_for_start(plan.workload.passage(), engine) else {
        return 1;
    };
    match run_start_hooks(surroundings.hooks, &starter) {
        Ok(()) => plan.workload.exec(file, &starter),
        Err(error) => starter.give_up(&error.into()),
    }
}

/// Reports that all is ready, and waits to be released. Returns the channel to whoever does that:
/// the engine or, if that sends a gate along, the process that comes there.
fn wait_for_start(passage: &Passage, engine: Channel) -> Option<Channel> {
    passage.say_ready(&engine).ok()?;
    let heard = passage.hear(&engine).ok()?;
    let Some(gate) = heard.fd else {
        return heard.go.then_some(engine);
    };
    // Closed first: while it waits at the gate, that is its only channel.
    passage.close(engine);
    let starter = Channel::from(passage.accept(&gate).ok()?);
    passage.close(gate);
    passage.hear(&starter).ok()?.go.then_some(starter)
}

/// Does what comes before the clone of an init that needs a stage ([`Namespaces::need_stage`]).
pub(crate) fn stage(plan: &Plan<'_>, surroundings: &InitSurroundings<'_>) -> Result<(), InitError> {
    let proc = Proc::open()?;
    let options = surroundings.options;
    plan.workload.use_the_callers_rights(&proc, None)?;
    plan.workload.leave_the_engine(&options.stdio)?;
    surroundings.namespaces.enter_as_stage()?;
    if surroundings.namespaces.has_new(LinuxNamespaceType::User) {
        Ok(())
    } else {
        id_map::check_joined(&proc, plan.linux)
    }
}

/// Takes the first steps, up to being in the container's user namespace.
fn leave_the_engine(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
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
        return Ok(plan.workload.leave_the_engine(stdio)?);
    }
    // Until the ids are mapped, there is no id that this process could take.
    if !engine.wait_for_release().step(|| "hear from the engine")? {
        return Err(InitError::EngineGone);
    }
    namespaces.enter_time()?;
    user::become_root()?;
    if namespaces.need_stage() {
        setsid().step(|| "start a session")?;
    } else {
        plan.workload.leave_the_engine(stdio)?;
    }
    Ok(())
}

/// As [`leave_the_engine`], where others are in the container's pid namespace: up to being in all
/// of the container's namespaces but that one.
fn leave_for_outside(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
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
    if namespaces.has_new(LinuxNamespaceType::User) {
        Ok(())
    } else {
        id_map::check_joined(proc, plan.linux)
    }
}

/// Does everything that needs the caller's rights or files, up to being in the container's root.
fn set_up(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
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
    // Through the caller's /proc, which is out of the container's reach.
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

/// Runs the hooks while the caller's files are still there and the container's root can still be
/// changed.
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
        // The init creates files with exactly the mode that they are to have. Hooks don't.
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
    // It doesn't matter if the starter is gone meanwhile: it has given its release.
    let _ = starter.report(&Report::Hooks(limit.as_secs()));
    hooks.run_start_container()
}

/// Makes all of the container's mounts, while the caller's files are still there, and its terminal.
fn assemble_root(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
) -> Result<(Rootfs, Option<Terminal>), InitError> {
    umask(Mode::empty());
    let mut root = Rootfs::attach(plan.root, plan.propagation, plan.tree.take())?;
    let view = CgroupView {
        cgroup: surroundings.cgroup,
        has_namespace: surroundings.namespaces.has_new(LinuxNamespaceType::Cgroup),
    };
    for mount in &plan.mounts {
        match mount.make(root.fd(), view)? {
            Some(PendingMount::Unfinished(made)) => root.make_readonly_at_end(made),
            Some(PendingMount::Kernels(made)) => root.remember(mount.destination(), made),
            None => {}
        }
    }
    if !plan.mounts.iter().any(PlannedMount::is_bind_of_dev) {
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
    safe_path::open_or_make(root, &clean(cwd), FileKind::Directory)
        .step(|| format!("make process.cwd {}", cwd.display()))?;
    Ok(())
}

/// Opens the root of a container without a mount namespace of its own: an unchanged directory, in
/// which nothing is mounted or made but the working directory.
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
