//! Further processes in a container that runs.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, setsid};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec, State};

use super::affinity::{Affinity, Cpus};
use super::cgroups::{Cgroup, CgroupError, Placement};
use super::channel::{Channel, Report, wait_until_readable};
use super::child::{self, SpawnError};
use super::config::{self, ConfigError};
use super::error::{InitError, Step};
use super::id_map;
use super::life::Container;
use super::namespaces::Others;
use super::procfs::Proc;
use super::rootfs::change_root;
use super::seccomp::{self, ListenerError};
use super::stdio::Stdio;
use super::sys;
use super::terminal::{self, ConsoleSocketError};
use super::user;
use super::workload::Workload;

/// How long it may take to get to the program.
const EXEC_BOUND: Duration = Duration::from_secs(60);

/// How a process is started in a container, besides what its `process` says.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// Its standard streams, if it has no terminal.
    pub stdio: Stdio,
    /// The socket over which the master of its terminal is sent.
    pub console_socket: Option<OwnedFd>,
    /// How many of the caller's descriptors from 3 on it gets besides its streams. They must
    /// be open, and not close-on-exec.
    pub preserve_fds: u32,
    /// The container's state, for the listener of a filter with `SCMP_ACT_NOTIFY`.
    pub state: Option<State>,
    /// The id of the container whose session keyring it joins; none, to stay in the caller's.
    pub session_keyring: Option<&'a str>,
    /// Cgroups below the container's for it to be in, by their paths from there, as
    /// [`Cgroup::placement_below`] takes them.
    pub cgroups: &'a [(&'a str, &'a Path)],
}

impl ExecOptions<'_> {
    /// Streams, and nothing else.
    pub fn new(stdio: Stdio) -> Self {
        ExecOptions {
            stdio,
            console_socket: None,
            preserve_fds: 0,
            state: None,
            session_keyring: None,
            cgroups: &[],
        }
    }
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Executed {
    /// Its pid, as the caller sees it. It is the caller's child, and for the caller to reap: the
    /// first process of its pid namespace isn't gone before that.
    pub pid: Pid,
    /// A pidfd of it: readable once it has ended.
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one that wasn't sent over a socket.
    pub terminal: Option<OwnedFd>,
}

/// Why a process wasn't started in a container. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The process can't be as it should.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody listens to what its filter has to tell.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The container's first process has ended.
    #[error("the container doesn't run")]
    NotRunning,
    /// The console socket can't be used, or isn't wanted.
    #[error(transparent)]
    ConsoleSocket(#[from] ConsoleSocketError),
    /// One of the descriptors to preserve isn't the caller's to give.
    #[error("descriptor {0}, which is to be preserved, isn't open")]
    Descriptor(u32),
    /// It can't be put into its cgroup.
    #[error("can't enter the cgroup {}", path.display())]
    Cgroup {
        /// The cgroup's path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The cgroup below the container's can't be used.
    #[error(transparent)]
    Below(#[from] CgroupError),
    /// The process can't be made.
    #[error("can't {step}")]
    Start {
        /// What was tried.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// It could not become what it should.
    #[error("{message}")]
    Process {
        /// Its account of it.
        message: String,
        /// What [`ExecError::exit_status`] says.
        status: u8,
    },
    /// It takes too long.
    #[error("the exec isn't done after {} s (is the container frozen?)", EXEC_BOUND.as_secs())]
    TimedOut,
}

impl ExecError {
    /// The exit status that a runtime's command ends with: 127 if the program isn't there, 126
    /// if it can't be executed, 1 for anything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            ExecError::Process { status, .. } => *status,
            _ => 1,
        }
    }
}

impl Container {
    /// Starts another process in the container: in all its namespaces, its root and its
    /// cgroup. `spec` is the container's, `process` what to start. Returns after the exec, or
    /// when the process was killed before it.
    ///
    /// That the container is paused isn't looked at. The process then waits to be thawed.
    ///
    /// This process must have a single thread, as with [`Container::create`].
    ///
    /// # Errors
    ///
    /// As [`ExecError`] tells. Nothing is left behind then: the process is killed and reaped.
    pub fn exec(
        &self,
        spec: &Spec,
        process: &Process,
        options: ExecOptions<'_>,
    ) -> Result<Executed, ExecError> {
        let linux = spec.linux().as_ref();
        let linux = linux.ok_or_else(|| ConfigError::missing("linux"))?;
        config::validate_process(process)?;
        id_map::validate_user(linux, process)?;
        let mut workload = Workload::new(process, linux)?;
        if workload.has_listener() && options.state.is_none() {
            let problem = "it must be told of the container's state, which the caller doesn't give";
            return Err(ConfigError::invalid("linux.seccomp.listenerPath", problem).into());
        }
        let affinity = Affinity::parse(process)?;
        if let Some(socket) = &options.console_socket {
            terminal::check_socket(socket.as_fd(), workload.has_terminal())?;
        }
        sys::first_not_inherited(options.preserve_fds)
            .map_or(Ok(()), |fd| Err(ExecError::Descriptor(fd)))?;
        let proc = Proc::open().map_err(|e| ExecError::Process {
            message: super::describe(&e),
            status: 1,
        })?;
        let container = self.enterable(&proc, spec)?;
        let cgroup = self
            .cgroup()
            .map(|cgroup| open_cgroup(cgroup, options.cgroups));
        let cgroup = cgroup.transpose()?;
        let own_cpus = match &affinity.initial {
            Some(cpus) => Some(run_on(cpus)?),
            None => None,
        };
        let into_user_namespace = container.namespaces.have_user();
        if into_user_namespace {
            workload.give_streams(&options.stdio, linux);
        }
        let for_children = container.namespaces.set_for_children();
        let for_children = for_children.map_err(starting("enter the pid namespace"))?;
        let run = |workload: &mut Workload<'_>, channel: Channel| {
            let failed = match set_up(workload, &container, &options, &affinity, &proc, &channel) {
                Ok(file) => workload.exec(&file),
                Err(error) => error,
            };
            channel.give_up(&failed)
        };
        // SAFETY: the caller has promised that this is the only thread.
        let mut spawn = |cgroup: Option<&Placement>| unsafe {
            if into_user_namespace {
                let stage = |workload: &Workload<'_>| stage(workload, &container, &options, &proc);
                child::spawn_through_stage(0, cgroup, &mut workload, stage, run)
            } else {
                let run = |channel| run(&mut workload, channel);
                child::spawn(0, cgroup, run).map_err(SpawnError::Kernel)
            }
        };
        let mut child = spawn(cgroup.as_ref());
        if let Err(SpawnError::Kernel(error)) = &child
            && error.raw_os_error() == Some(libc::EBUSY)
            && options.cgroups.is_empty()
            && let Some(below) = self.inits_cgroup(&proc)
        {
            child = spawn(Some(&below));
        }
        drop((for_children, own_cpus));
        let child = child.map_err(|error| match error {
            SpawnError::Kernel(error) => starting("clone a process")(error),
            SpawnError::Stage(failure) => ExecError::Process {
                message: failure.message,
                status: failure.status,
            },
        })?;
        if into_user_namespace && let Err(error) = child.channel.release() {
            child.end();
            return Err(starting("let the process go on")(error));
        }
        let filtered = |listener: &OwnedFd| match (linux.seccomp(), &options.state) {
            (Some(seccomp), Some(state)) => {
                seccomp::tell(seccomp, listener, child.pid.as_raw(), state.clone())
            }
            _ => Ok(()),
        };
        match heard_of_exec(&child.channel, options.console_socket.as_ref(), filtered) {
            Ok(terminal) => Ok(Executed {
                pid: child.pid,
                pidfd: child.pidfd,
                terminal,
            }),
            Err(error) => {
                child.end();
                Err(error)
            }
        }
    }

    /// The init's own cgroup, below the container's: a cgroup2 with controllers in those below it
    /// takes no processes itself, as where the container runs systemd.
    fn inits_cgroup(&self, proc: &Proc) -> Option<Placement> {
        let cgroup = self.cgroup()?;
        let lines = proc.read(&format!("{}/cgroup", self.pid())).ok()?;
        let inits = lines.lines().find_map(|line| line.strip_prefix("0::"))?;
        let below = below(cgroup.v2_path()?, Path::new(inits))?;
        cgroup.placement_below(&[("", below)]).ok()
    }

    /// Looks at the namespaces and the root of the container's init.
    fn enterable<'a>(&'a self, proc: &Proc, spec: &Spec) -> Result<Enterable<'a>, ExecError> {
        let pidfd = self.pidfd().ok_or(ExecError::NotRunning)?;
        let namespaces = Others::of(proc, self.pid(), pidfd);
        let root = if has_new_mount_namespace(spec) {
            Ok(None)
        } else {
            let path = format!("{}/root", self.pid());
            proc.open_file(&path, OFlag::O_PATH | OFlag::O_DIRECTORY)
                .map(|root| Some(root.into()))
        };
        // What was looked at by its pid was the container's if this is still there.
        let ended = wait_until_readable(pidfd, Duration::ZERO).unwrap_or(true);
        if ended {
            return Err(ExecError::NotRunning);
        }
        Ok(Enterable {
            namespaces: namespaces.map_err(starting("look at the container's namespaces"))?,
            root: root.map_err(starting("open the container's root"))?,
        })
    }
}

/// Lets this process run on `cpus` only, for its child to begin there, until what this returns
/// is dropped.
fn run_on(cpus: &Cpus) -> Result<RunsElsewhere, ExecError> {
    let step = "set process.execCPUAffinity.initial";
    let own = Cpus::current().map_err(starting(step))?;
    cpus.set().map_err(starting(step))?;
    Ok(RunsElsewhere { own })
}

/// This process, on CPUs that are another's.
struct RunsElsewhere {
    own: Cpus,
}

impl Drop for RunsElsewhere {
    fn drop(&mut self) {
        // It could run there before.
        let _ = self.own.set();
    }
}

/// What makes a process one of the container.
struct Enterable<'a> {
    namespaces: Others<'a>,
    /// Its root, if that isn't its mount namespace's.
    root: Option<OwnedFd>,
}

/// What is done before the process is cloned, if the container has a user namespace.
fn stage(
    workload: &Workload<'_>,
    container: &Enterable<'_>,
    options: &ExecOptions<'_>,
    proc: &Proc,
) -> Result<(), InitError> {
    workload.use_the_callers_rights(proc, None)?;
    workload.leave_the_engine(&options.stdio)?;
    container.namespaces.enter_as_stage()
}

/// Everything up to the exec. Returns the file to exec.
fn set_up(
    workload: &mut Workload<'_>,
    container: &Enterable<'_>,
    options: &ExecOptions<'_>,
    affinity: &Affinity,
    proc: &Proc,
    engine: &Channel,
) -> Result<CString, InitError> {
    if container.namespaces.have_user() {
        if !engine.wait_for_release().step(|| "hear from the engine")? {
            return Err(InitError::EngineGone);
        }
        // What it makes, its terminal for one, is to belong to somebody in there.
        user::become_root()?;
        setsid().step(|| "start a session")?;
    } else {
        workload.adjust_oom_score(proc, None)?;
        workload.leave_the_engine(&options.stdio)?;
        container.namespaces.enter()?;
    }
    if let Some(cpus) = &affinity.last {
        cpus.set().step(|| "set process.execCPUAffinity.final")?;
    }
    if let Some(root) = &container.root {
        change_root(root)?;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    if workload.has_terminal() {
        let root = open("/", flags, Mode::empty()).step(|| "open the container's root")?;
        if let Some(terminal) = workload.make_terminal(root.as_fd())? {
            let master = terminal.become_controlling()?;
            let told = engine.report_with_fd(&Report::Ready, Some(master.as_fd()));
            told.step(|| "pass the terminal on")?;
        }
    }
    if let Some(id) = options.session_keyring {
        workload.join_keyring(id, proc)?;
    }
    let file = workload.get_ready(options.preserve_fds, proc)?;
    workload.filter_for_listener(engine)?;
    Ok(file)
}

fn has_new_mount_namespace(spec: &Spec) -> bool {
    let linux = spec.linux().iter();
    linux
        .flat_map(|linux| linux.namespaces().iter().flatten())
        .any(|namespace| {
            namespace.typ() == LinuxNamespaceType::Mount
                && namespace
                    .path()
                    .iter()
                    .all(|path| path.as_os_str().is_empty())
        })
}

/// Where the cgroup `inner` is below the one of the directory `outer`. `inner` is relative to the
/// cgroup2 mount, which `outer` begins with.
fn below<'a>(outer: &Path, inner: &'a Path) -> Option<&'a Path> {
    let inner = inner.strip_prefix("/").ok()?;
    let mut mount = outer.ancestors();
    mount.find_map(|mount| {
        let outer = outer.strip_prefix(mount).ok()?;
        let below = inner.strip_prefix(outer).ok()?;
        let found = !outer.as_os_str().is_empty() && !below.as_os_str().is_empty();
        found.then_some(below)
    })
}

fn open_cgroup(cgroup: &Cgroup, below: &[(&str, &Path)]) -> Result<Placement, ExecError> {
    match below {
        [] => cgroup.placement().map_err(|source| ExecError::Cgroup {
            path: cgroup.path().to_owned(),
            source,
        }),
        below => Ok(cgroup.placement_below(below)?),
    }
}

fn starting<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ExecError {
    move |source| ExecError::Start {
        step,
        source: source.into(),
    }
}

/// Waits for the exec. Returns the master of the process's terminal, unless it was sent to
/// `console_socket`.
fn heard_of_exec(
    channel: &Channel,
    console_socket: Option<&OwnedFd>,
    filtered: impl Fn(&OwnedFd) -> Result<(), ListenerError>,
) -> Result<Option<OwnedFd>, ExecError> {
    let mut terminal = None;
    loop {
        match channel.wait_for_report_and_fd(EXEC_BOUND) {
            // The exec closed the other end. Or it was killed: its exit status tells.
            Ok(None) => return Ok(terminal),
            Ok(Some((Report::Failed(failure), _))) => {
                return Err(ExecError::Process {
                    message: failure.message,
                    status: failure.status,
                });
            }
            // It has a terminal, and says so once.
            Ok(Some((Report::Ready, Some(master)))) => match console_socket {
                Some(socket) => terminal::send(socket, &master)?,
                None => terminal = Some(master),
            },
            Ok(Some((Report::Filtered, Some(listener)))) => filtered(&listener)?,
            Ok(Some((_, _))) => {
                let error = io::Error::from(io::ErrorKind::InvalidData);
                return Err(starting("hear from the process")(error));
            }
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(ExecError::TimedOut),
            Err(error) => return Err(starting("hear from the process")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inits_cgroup_is_found_below_the_containers() {
        for (outer, inner, expected) in [
            ("/sys/fs/cgroup/a/b", "/a/b/init.scope", Some("init.scope")),
            ("/sys/fs/cgroup/a", "/a/a/b", Some("a/b")),
            ("/sys/fs/cgroup/unified/a", "/a/x/y", Some("x/y")),
            ("/sys/fs/cgroup/a/b", "/a/b", None),
            ("/sys/fs/cgroup/a/b", "/a/c/d", None),
            ("/sys/fs/cgroup/a/b", "/", None),
            ("/sys/fs/cgroup/a/b", "/../x", None),
        ] {
            let found = below(Path::new(outer), Path::new(inner));
            assert_eq!(found, expected.map(Path::new), "{outer} {inner}");
        }
    }
}
