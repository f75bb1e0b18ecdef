//! Further processes in a container that runs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec, State};

use super::affinity::{Affinity, Cpus};
use super::cgroups::{Cgroup, CgroupError, Placement};
use super::channel::{Channel, Failure, Report, wait_until_readable};
use super::child::{self, Child};
use super::config::{self, ConfigError};
use super::crossing::Crossing;
use super::executed::{Enterable, Outside};
use super::id_map;
use super::life::Container;
use super::namespaces::Others;
use super::procfs::Proc;
use super::seccomp::{self, ListenerError};
use super::stdio::Stdio;
use super::sys;
use super::terminal::{self, ConsoleSocketError};
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
        if container.namespaces.have_user() {
            workload.give_streams(&options.stdio, linux);
        }
        let crossing = Crossing::new().map_err(starting("share a page with a process"))?;
        let mut spawn = |cgroup: Option<&Placement>| {
            let run = |line: Channel| {
                let outside = Outside {
                    container: &container,
                    stdio: &options.stdio,
                    preserve_fds: options.preserve_fds,
                    session_keyring: options.session_keyring,
                    affinity: &affinity,
                    crossing: &crossing,
                };
                outside.run(&mut workload, proc.as_fd(), line)
            };
            // SAFETY: the caller has promised that this is the only thread.
            unsafe { child::spawn(0, cgroup, run) }
        };
        let mut outside = spawn(cgroup.as_ref());
        if let Err(error) = &outside
            && error.raw_os_error() == Some(libc::EBUSY)
            && options.cgroups.is_empty()
            && let Some(below) = self.inits_cgroup(&proc)
        {
            outside = spawn(Some(&below));
        }
        drop(own_cpus);
        let outside = outside.map_err(starting("clone a process"))?;
        let console = options.console_socket.as_ref();
        let told = hear_of_outside(&outside, console, workload.has_listener());
        let Told { terminal, listener } = match told {
            Ok(told) => told,
            Err(error) => {
                outside.end();
                return Err(error);
            }
        };
        let child = inside(&crossing, outside)?;
        let tell = || match (listener, linux.seccomp(), options.state) {
            (Some(listener), Some(seccomp), Some(state)) => {
                seccomp::tell(seccomp, &listener, child.pid.as_raw(), state)
            }
            _ => Ok(()),
        };
        match tell()
            .map_err(ExecError::from)
            .and_then(|()| hear_of_exec(&child, &workload))
        {
            Ok(()) => Ok(Executed {
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

/// What the process outside has told.
struct Told {
    /// The master of its terminal, unless that was sent to a console socket.
    terminal: Option<OwnedFd>,
    /// The descriptor for who listens to its filter.
    listener: Option<OwnedFd>,
}

/// Hears what the process outside has to tell, until it has nothing left to do but to cross.
fn hear_of_outside(
    outside: &Child,
    console_socket: Option<&OwnedFd>,
    has_listener: bool,
) -> Result<Told, ExecError> {
    let mut told = Told {
        terminal: None,
        listener: None,
    };
    loop {
        match hear(outside)? {
            Some((Report::Terminal, Some(master))) => match console_socket {
                Some(socket) => terminal::send(socket, &master)?,
                None => told.terminal = Some(master),
            },
            Some((Report::Crossing, _)) if !has_listener => return Ok(told),
            Some((Report::Crossing, _)) => {}
            Some((Report::Filtered, Some(listener))) => {
                told.listener = Some(listener);
                return Ok(told);
            }
            Some(_) => return Err(unasked()),
            // It was killed.
            None => return Ok(told),
        }
    }
}

/// Waits for the process inside to take the place of the one outside.
fn inside(crossing: &Crossing, outside: Child) -> Result<Child, ExecError> {
    let line = outside.channel.try_clone();
    let line = line.map_err(starting("copy a descriptor"))?;
    let inside = crossing.wait(outside);
    match inside.map_err(starting("wait for a process to be in the container"))? {
        Some(child) => Ok(child),
        None => Err(match line.wait_for_report(Duration::ZERO) {
            Ok(Some(Report::Failed(failure))) => failed(failure),
            _ => starting("make a process in the container")(io::Error::other(
                "it was killed before",
            )),
        }),
    }
}

/// Lets the process inside go on, and waits for its exec.
fn hear_of_exec(child: &Child, workload: &Workload<'_>) -> Result<(), ExecError> {
    if workload.has_scheduler() {
        workload
            .set_scheduler(child.pid)
            .map_err(|error| ExecError::Process {
                message: super::describe(&error),
                status: error.exit_status(),
            })?;
        let released = child.channel.release();
        released.map_err(starting("let the process go on"))?;
    }
    match hear(child)? {
        // The exec closed the other end. Or it was killed: its exit status tells.
        None => Ok(()),
        Some(_) => Err(unasked()),
    }
}

fn hear(child: &Child) -> Result<Option<(Report, Option<OwnedFd>)>, ExecError> {
    let process = child.pidfd.as_fd();
    match child.channel.wait_for_report_of(process, EXEC_BOUND) {
        Ok(Some((Report::Failed(failure), _))) => Err(failed(failure)),
        Ok(heard) => Ok(heard),
        Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(ExecError::TimedOut),
        Err(error) => Err(starting("hear from the process")(error)),
    }
}

fn failed(failure: Failure) -> ExecError {
    ExecError::Process {
        message: failure.message,
        status: failure.status,
    }
}

fn unasked() -> ExecError {
    starting("hear from the process")(io::Error::from(io::ErrorKind::InvalidData))
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
