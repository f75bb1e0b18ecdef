//! Creates a container: all that the engine does for it before and around its init.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::unistd::geteuid;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::container::{Container, Start};
use super::create_error::CreateError;
use super::init::{self, InitSurroundings, Plan};
use super::options::Options;
use super::ready::Unready;
use crate::container::config::{ConfigError, ContainerConfig};
use crate::container::error::{Step, StepError};
use crate::container::fork::child::{self, Child, SpawnError};
use crate::container::fork::crossing::Crossing;
use crate::container::hooks::Hooks;
use crate::container::kernel::identity::Identity;
use crate::container::kernel::procfs::Proc;
use crate::container::kernel::{sys, user_namespaces};
use crate::container::namespaces::entry::{NamespaceError, Namespaces};
use crate::container::namespaces::{host as host_namespaces, id_map};
use crate::container::process::terminal;
use crate::container::process::workload::Workload;

impl Container {
    /// Prepares a container up to its workload's exec. The root's path and the sources of bind
    /// mounts must be absolute ([`config::resolve_paths`]).
    ///
    /// # Errors
    ///
    /// See [`CreateError`]. Nothing is left behind then: the init is killed and reaped, its cgroup
    /// is removed, and its mounts went with its namespace.
    ///
    /// # Safety
    ///
    /// This process must have a single thread: the init is a fork of it that goes on running its
    /// code. Where no other thread holds a lock or changes the environment meanwhile, as in a test,
    /// the worst is an init whose memory allocations block until it is killed for not being ready.
    pub unsafe fn create(spec: &Spec, mut options: Options<'_>) -> Result<Container, CreateError> {
        let config = ContainerConfig::parse(spec)?;
        let linux = config.linux.linux;
        let mut plan = Plan::new(config)?;
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
        let path = linux.cgroups_path().as_deref();
        let resources = linux.resources().as_ref();
        // SAFETY: the caller's promise.
        let made = unsafe { options.cgroup_manager.create(path, options.id, resources) }?;
        let (cgroup, holder) = made.map_or((None, None), |m| (Some(m.cgroup), m.holder));
        let hooks = Hooks::from_spec(spec, options.id, options.bundle);
        let surroundings = InitSurroundings {
            hooks: hooks.as_ref(),
            namespaces: &namespaces,
            cgroup: cgroup.as_ref(),
            options: &options,
        };
        let crossing = namespaces.have_company().then(Crossing::new).transpose();
        let crossing = crossing.step(|| "share a page with the container's init")?;
        let crossing_line = crossing.as_ref();
        // SAFETY: the caller's promise.
        let init = unsafe { clone_init(&mut plan, &surroundings, linux, crossing_line) };
        let init = match init {
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
                // The first error is the one to report.
                let _ = container.destroy();
                Err(with_hint(error, &namespaces))
            }
        }
    }
}

/// Adds to an error what keeps an ordinary user from making a user namespace, if that may be the
/// cause: security modules allow making one, but nothing in it.
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

/// Whether the container joins a mount namespace, so that the root is a directory in that.
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

/// Makes the init.
///
/// # Safety
///
/// This process must have a single thread.
unsafe fn clone_init(
    plan: &mut Plan<'_>,
    surroundings: &InitSurroundings<'_>,
    linux: &Linux,
    crossing: Option<&Crossing>,
) -> Result<Child, CreateError> {
    let namespaces = surroundings.namespaces;
    let placement = match surroundings.cgroup {
        Some(cgroup) => Some(cgroup.placement().step(|| "open the cgroup")?),
        None => None,
    };
    let placement = placement.as_ref();
    if namespaces.has_user() {
        plan.open_sources()?;
        let stdio = &surroundings.options.stdio;
        plan.workload().give_streams(stdio, linux);
    }
    // SAFETY: the caller's promise.
    unsafe { plan.map_ids(namespaces) }?;
    let for_children = namespaces.set_for_children()?;
    let flags = namespaces.clone_flags();
    let run = |plan: &mut Plan<'_>, channel| init::run(plan, surroundings, channel);
    // SAFETY: the caller's promise.
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
        SpawnError::Kernel(error) => StepError::new("clone the container's init", error).into(),
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

/// Does what needs the engine's rights for an init that is in another user namespace, and releases
/// it.
fn let_into_user_namespace(
    init: &Child,
    workload: &Workload<'_>,
    namespaces: &Namespaces,
    linux: &Linux,
) -> Result<(), CreateError> {
    if namespaces.has_new(LinuxNamespaceType::User) {
        let proc = Proc::open()?;
        id_map::write(&proc, init.pid, linux)?;
        if !namespaces.need_stage() {
            let done = workload.use_the_callers_rights(&proc, Some(init.pid));
            done?;
        }
    }
    let released = init.channel.release();
    released.step(|| "let the container's init go on")?;
    Ok(())
}
