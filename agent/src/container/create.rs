//! Making a container: all that the engine does for it before and around its init.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::cgroups::{CgroupError, Manager};
use super::child::{self, Child, SpawnError};
use super::config::{self, ConfigError};
use super::crossing::Crossing;
use super::error::InitError;
use super::gate::Gate;
use super::hooks::{HookError, Hooks};
use super::host_namespaces;
use super::id_map::{self, IdMapError};
use super::identity::Identity;
use super::init::{self, Plan, Surroundings};
use super::life::{Container, Start};
use super::namespaces::{NamespaceError, Namespaces};
use super::net_devices::NetDeviceError;
use super::procfs::Proc;
use super::ready::Unready;
use super::seccomp::ListenerError;
use super::stdio::Stdio;
use super::sys;
use super::terminal::{self, ConsoleSocketError};
use super::user_namespaces;
use super::workload::Workload;

/// Why a container wasn't created. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The configuration can't be honoured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `root.path` isn't a directory that can be used.
    #[error("root.path {}", path.display())]
    Root {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A namespace can't be had.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The ids of its user namespace can't be mapped as asked.
    #[error(transparent)]
    IdMap(#[from] IdMapError),
    /// The cgroup can't be made, or not with these limits.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The console socket can't be used, or isn't wanted.
    #[error(transparent)]
    ConsoleSocket(#[from] ConsoleSocketError),
    /// One of the descriptors to preserve isn't the caller's to give.
    #[error("descriptor {0}, which is to be preserved, isn't one that this program was given")]
    Descriptor(u32),
    /// Nobody listens to what the filter of system calls has to tell.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// A device of `linux.netDevices` can't be given to it.
    #[error(transparent)]
    NetDevice(#[from] NetDeviceError),
    /// The init can't be started.
    #[error("can't {step}")]
    Start {
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A hook of the caller's namespaces failed. Those of the container's are the init's.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The init could not set the container up.
    #[error("{message}")]
    Init {
        /// Its account of it.
        message: String,
        /// What [`CreateError::exit_status`] says.
        status: u8,
    },
    /// The memory limit leaves no room even for the init.
    #[error("the container's init was OOM-killed (is the memory limit too low?)")]
    OomKilled,
    /// The init ended without a word.
    #[error("the container's init ended before it was ready: {0}")]
    Died(String),
    /// The init was not ready in time.
    #[error("the container's init isn't ready after {0} s")]
    TimedOut(u64),
}

/// How a container is created, besides what its configuration says.
#[derive(Debug)]
pub struct Options<'a> {
    /// Names its cgroup where `linux.cgroupsPath` doesn't, so it must be sound as a file's name.
    pub id: &'a str,
    /// Its bundle's directory, which hooks are told of.
    pub bundle: &'a Path,
    /// The standard streams of a workload without a terminal.
    pub stdio: Stdio,
    /// Where it waits for its start, if it is another process that says so, once it is
    /// [let go](Container::let_go).
    pub gate: Option<Gate>,
    /// Where the master of the workload's terminal is sent, as runc does it: a connected stream
    /// socket of the UNIX domain, which gets one message with the descriptor. Without it the
    /// master stays here ([`Container::take_terminal`]).
    pub console_socket: Option<OwnedFd>,
    /// How many descriptors from 3 up the workload is to have besides its standard streams.
    /// They must be open, and not close-on-exec: those that the caller has got from its own.
    pub preserve_fds: u32,
    /// Who makes its cgroup.
    pub cgroup_manager: Manager<'a>,
    /// Enter the container's root by moving its mount and by chroot, for where pivot_root is
    /// impossible: on a root file system that is the kernel's initramfs.
    pub no_pivot: bool,
    /// Leave the workload in the caller's session keyring instead of one of its own.
    pub no_new_keyring: bool,
}

impl<'a> Options<'a> {
    /// Nothing but what there must be.
    pub fn new(id: &'a str, bundle: &'a Path, stdio: Stdio) -> Self {
        Options {
            id,
            bundle,
            stdio,
            gate: None,
            console_socket: None,
            preserve_fds: 0,
            cgroup_manager: Manager::Files,
            no_pivot: false,
            no_new_keyring: false,
        }
    }
}

impl CreateError {
    /// The exit status that a runtime's command ends with: 127 if the program isn't there, 126
    /// if it can't be executed, 1 for anything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            CreateError::Init { status, .. } => *status,
            _ => 1,
        }
    }

    /// Whether the container's first process was there already, so that hooks may have been
    /// run: then the `poststop` ones are due.
    pub fn had_begun(&self) -> bool {
        matches!(
            self,
            CreateError::Hook(_)
                | CreateError::Listener(_)
                | CreateError::Init { .. }
                | CreateError::OomKilled
                | CreateError::Died(_)
                | CreateError::TimedOut(_)
        )
    }
}

impl Container {
    /// Prepares a container up to its workload's exec. The root's path and the sources of bind
    /// mounts must be absolute ([`config::resolve_paths`]).
    ///
    /// This process must have a single thread, or what the init allocates may block it until
    /// it is killed for not being ready.
    ///
    /// # Errors
    ///
    /// As [`CreateError`] tells. Nothing is left behind then: the init is killed and reaped,
    /// its cgroup removed, and its mounts went with its namespace.
    pub fn create(spec: &Spec, mut options: Options<'_>) -> Result<Container, CreateError> {
        config::validate(spec)?;
        let linux = spec.linux().as_ref();
        let linux = linux.ok_or_else(|| ConfigError::missing("linux"))?;
        let mut plan = Plan::new(spec)?;
        if !joins_mount_namespace(linux) {
            check_root(plan.root())?;
        }
        if let Some(socket) = &options.console_socket {
            terminal::check_socket(socket.as_fd(), plan.has_terminal())?;
        }
        if let Some(fd) = sys::first_not_inherited(options.preserve_fds) {
            return Err(CreateError::Descriptor(fd));
        }
        let namespaces = Namespaces::open(linux)?;
        host_namespaces::check(spec, &namespaces)?;
        let made = options.cgroup_manager.create(
            linux.cgroups_path().as_deref(),
            options.id,
            linux.resources().as_ref(),
        )?;
        let (cgroup, holder) = made.map_or((None, None), |m| (Some(m.cgroup), m.holder));
        let hooks = Hooks::of(spec, options.id, options.bundle);
        let surroundings = Surroundings {
            hooks: hooks.as_ref(),
            namespaces: &namespaces,
            cgroup: cgroup.as_ref(),
            options: &options,
        };
        let crossing = namespaces.have_company().then(Crossing::new).transpose();
        let crossing = crossing.map_err(starting("share a page with the container's init"))?;
        let init = match clone_init(&mut plan, &surroundings, linux, crossing.as_ref()) {
            Ok(init) => init,
            Err(error) => {
                if let Some(cgroup) = cgroup {
                    let _ = cgroup.remove();
                }
                return Err(error);
            }
        };
        drop(holder);
        let mut container = Container {
            init: Identity::of_child(init.pid),
            pidfd: Some(init.pidfd),
            start: Start::Done,
            cgroup: cgroup.clone(),
            terminal: None,
        };
        let unready = Unready {
            spec,
            linux,
            options: &options,
            hooks: hooks.as_ref(),
            namespaces: &namespaces,
            workload: plan.workload(),
            crossing: crossing.as_ref(),
        };
        match unready.wait(&mut container, init.channel) {
            Ok((line, given)) => {
                if let Some(given) = given {
                    given.keep();
                }
                container.start = Start::Channel(line, options.gate.take());
                Ok(container)
            }
            Err(error) => {
                // The first error is the one to tell.
                let _ = container.destroy();
                Err(with_hint(error, &namespaces))
            }
        }
    }
}

/// An error, with what keeps an ordinary user from making a user namespace if that may be it:
/// security modules let one be made, but nothing be done in it.
fn with_hint(error: CreateError, namespaces: &Namespaces) -> CreateError {
    match error {
        CreateError::Init { message, status }
            if namespaces.has_new(LinuxNamespaceType::User) && !geteuid().is_root() =>
        {
            let hint = user_namespaces::what_keeps_one_from_making_one();
            CreateError::Init {
                message: message + &hint,
                status,
            }
        }
        error => error,
    }
}

pub(super) fn starting<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> CreateError {
    move |source| CreateError::Start {
        step,
        source: source.into(),
    }
}

/// Whether the root is a directory of another mount namespace.
fn joins_mount_namespace(linux: &Linux) -> bool {
    linux.namespaces().iter().flatten().any(|namespace| {
        namespace.typ() == LinuxNamespaceType::Mount
            && namespace
                .path()
                .iter()
                .any(|path| !path.as_os_str().is_empty())
    })
}

fn check_root(path: &Path) -> Result<(), CreateError> {
    let failed = |source: io::Error| CreateError::Root {
        path: path.to_owned(),
        source,
    };
    if !path.is_absolute() {
        return Err(ConfigError::invalid("root.path", format!("{path:?} isn't absolute")).into());
    }
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(failed(io::ErrorKind::NotADirectory.into())),
        Err(error) => Err(failed(error)),
    }
}

fn clone_init(
    plan: &mut Plan<'_>,
    surroundings: &Surroundings<'_>,
    linux: &Linux,
    crossing: Option<&Crossing>,
) -> Result<Child, CreateError> {
    let namespaces = surroundings.namespaces;
    let placement = match surroundings.cgroup {
        Some(cgroup) => Some(cgroup.placement().map_err(starting("open the cgroup"))?),
        None => None,
    };
    let placement = placement.as_ref();
    if namespaces.has_user() {
        plan.open_sources().map_err(init_failed)?;
        let stdio = &surroundings.options.stdio;
        plan.workload().give_streams(stdio, linux);
    }
    plan.map_ids().map_err(init_failed)?;
    let for_children = namespaces.set_for_children()?;
    let flags = namespaces.clone_flags();
    let run = |plan: &mut Plan<'_>, channel| init::run(plan, surroundings, channel);
    // SAFETY: the caller of `Container::create` has promised that this is the only thread.
    let init = unsafe {
        if let Some(crossing) = crossing {
            let run = |channel| init::run_outside(plan, surroundings, crossing, channel);
            child::spawn(0, placement, run).map_err(SpawnError::Kernel)
        } else if namespaces.need_stage() {
            let stage = |plan: &&mut Plan<'_>| init::stage(plan, surroundings);
            let run = |plan: &mut &mut Plan<'_>, channel| run(plan, channel);
            child::spawn_through_stage(flags, placement, &mut &mut *plan, stage, run)
        } else {
            child::spawn(flags, placement, |channel| run(plan, channel)).map_err(SpawnError::Kernel)
        }
    };
    drop(for_children);
    let init = init.map_err(|error| match error {
        SpawnError::Stage(failure) => CreateError::Init {
            message: failure.message,
            status: failure.status,
        },
        SpawnError::Kernel(error) if namespaces.has_user() => {
            CreateError::Namespace(NamespaceError::User {
                hint: user_namespaces::what_keeps_one_from_making_one(),
                source: error,
            })
        }
        SpawnError::Kernel(error) => starting("clone the container's init")(error),
    })?;
    if namespaces.has_user()
        && crossing.is_none()
        && let Err(error) = let_into_user_namespace(&init, plan.workload(), namespaces, linux)
    {
        init.end();
        return Err(error);
    }
    Ok(init)
}

/// Does for an init that is in another user namespace what it takes the engine's rights for,
/// and lets it go on.
fn let_into_user_namespace(
    init: &Child,
    workload: &Workload<'_>,
    namespaces: &Namespaces,
    linux: &Linux,
) -> Result<(), CreateError> {
    if namespaces.has_new(LinuxNamespaceType::User) {
        let proc = Proc::open().map_err(init_failed)?;
        id_map::write(&proc, init.pid, linux)?;
        if !namespaces.need_stage() {
            let done = workload.use_the_callers_rights(&proc, Some(init.pid));
            done.map_err(init_failed)?;
        }
    }
    let released = init.channel.release();
    released.map_err(starting("let the container's init go on"))
}

pub(super) fn init_failed(error: InitError) -> CreateError {
    CreateError::Init {
        message: super::describe(&error),
        status: error.exit_status(),
    }
}
