//! Starts further processes in a running container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::unistd::Pid;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec, State};

use super::container::Container;
use super::executed::{ContainerEntry, OutsideProcess};
use crate::container::cgroups::{Cgroup, CgroupError, Placement};
use crate::container::config::seccomp::Profile;
use crate::container::config::{
    ConfigError, ProcessConfig, has_new_namespace, id_map, memory_policy,
};
use crate::container::error::{InitError, Step, StepError, describe};
use crate::container::fork::channel::{Channel, Failure, Report};
use crate::container::fork::child::{self, Child};
use crate::container::fork::crossing::Crossing;
use crate::container::kernel::cpus::Cpus;
use crate::container::kernel::procfs::Proc;
use crate::container::kernel::sys;
use crate::container::kernel::wait::wait_until_readable;
use crate::container::namespaces::entry::OtherNamespaces;
use crate::container::process::stdio::Stdio;
use crate::container::process::terminal::{self, ConsoleSocketError};
use crate::container::process::workload::Workload;
use crate::container::seccomp::{self, ListenerError};

/// How long it may take to reach the program's exec.
const EXEC_BOUND: Duration = Duration::from_secs(60);

const HEAR: &str = "hear from the process";

/// How a process is started in a container, besides its `process`.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// Its standard streams, if it has no terminal.
    pub stdio: Stdio,
    /// The socket to which the master of its terminal is sent.
    pub console_socket: Option<OwnedFd>,
    /// How many of the caller's descriptors from 3 up it gets besides its streams. They must be
    /// open, and not close-on-exec.
    pub preserve_fds: u32,
    /// The container's state, for the listener of a filter with `SCMP_ACT_NOTIFY`.
    pub state: Option<State>,
    /// The id of the container whose session keyring it joins; `None` to stay in the caller's.
    pub session_keyring: Option<&'a str>,
    /// The cgroups below the container's that it enters, by their paths from there, as
    /// [`Cgroup::placement_below`] takes them.
    pub cgroups: &'a [(&'a str, &'a Path)],
}

impl ExecOptions<'_> {
    /// Returns options with these streams, and nothing else.
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
    /// Its pid, as the caller sees it. It is the caller's child, which the caller has to reap: the
    /// first process of its pid namespace can't be gone before that.
    pub pid: Pid,
    /// Its pidfd: readable once it has ended.
    pub pidfd: OwnedFd,
    /// The master of its terminal, if it has one that wasn't sent to a socket.
    pub terminal: Option<OwnedFd>,
}

/// Why a process wasn't started in a container. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The process's configuration can't be honoured.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its filter has no listener that can be reached.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The container's first process has ended.
    #[error("the container doesn't run")]
    NotRunning,
    /// The console socket can't be used, or isn't needed.
    #[error(transparent)]
    ConsoleSocket(#[from] ConsoleSocketError),
    /// One of the descriptors to preserve isn't one that the caller was given.
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
    #[error(transparent)]
    Start(#[from] StepError),
    /// The process couldn't set itself up.
    #[error("{message}")]
    Process {
        /// Its error message.
        message: String,
        /// What [`ExecError::exit_status`] returns.
        status: u8,
    },
    /// The container has reached its limit on processes.
    #[error("the container has as many processes as linux.resources.pids.limit allows")]
    PidsLimit(#[source] Box<ExecError>),
    /// The exec wasn't done in time.
    #[error("the exec isn't done after {} s (is the container frozen?)", EXEC_BOUND.as_secs())]
    TimedOut,
}

impl ExecError {
    /// Returns the exit status for a runtime's command: 127 if the program doesn't exist, 126 if it
    /// can't be executed, 1 for anything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            ExecError::Process { status, .. } => *status,
            ExecError::PidsLimit(error) => error.exit_status(),
            _ => 1,
        }
    }
}

impl From<InitError> for ExecError {
    fn from(error: InitError) -> Self {
        ExecError::Process {
            message: describe(&error),
            status: error.exit_status(),
        }
    }
}

impl Container {
    /// Starts another process in the container: in all its namespaces, its root and its cgroup.
    /// `spec` is the container's, `process` what to start. Returns after the exec, whether that
    /// succeeded or not, or when the process was killed before it.
    ///
    /// Doesn't check whether the container is paused. If it is, the process waits to be thawed.
    ///
    /// # Errors
    ///
    /// See [`ExecError`]. Nothing is left behind then: the process is killed and reaped.
    ///
    /// # Safety
    ///
    /// As with [`Container::create`]: this process must have a single thread.
    pub unsafe fn exec(
        &self,
        spec: &Spec,
        process: &Process,
        options: ExecOptions<'_>,
    ) -> Result<Executed, ExecError> {
        let refused = || self.cgroup().and_then(Cgroup::refused_processes);
        let before = refused();
        // SAFETY: the caller's promise.
        let started = unsafe { self.start_another(spec, process, options) };
        started.map_err(|error| match error.exit_status() {
            // The process had already got as far as looking for its program.
            126 | 127 => error,
            _ if refused() > before => ExecError::PidsLimit(Box::new(error)),
            _ => error,
        })
    }

    /// # Safety
    ///
    /// As [`exec`](Self::exec).
    unsafe fn start_another(
        &self,
        spec: &Spec,
        process: &Process,
        options: ExecOptions<'_>,
    ) -> Result<Executed, ExecError> {
        let linux = spec.linux().as_ref();
        let linux = linux.ok_or_else(|| ConfigError::missing("linux"))?;
        let mut workload = another_workload(linux, process)?;
        check_options(&options, &workload)?;
        let proc = Proc::open()?;
        let container = self.enterable(&proc, spec)?;
        if container.namespaces.have_user() {
            workload.give_streams(&options.stdio, linux);
        }
        let crossing = Crossing::new().step(|| "share a page with a process")?;
        let outside = OutsideProcess {
            container: &container,
            stdio: &options.stdio,
            preserve_fds: options.preserve_fds,
            session_keyring: options.session_keyring,
            crossing: &crossing,
        };
        // SAFETY: the caller's promise.
        let outside = unsafe { self.spawn(&outside, &mut workload, &proc, options.cgroups) }?;
        let console = options.console_socket.as_ref();
        let told = hear_of_outside(&outside, console, workload.has_listener());
        let OutsideReports { terminal, listener } = match told {
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

    /// Clones the process outside, into the container's cgroup or the ones `below` that.
    ///
    /// # Safety
    ///
    /// As [`exec`](Self::exec).
    unsafe fn spawn(
        &self,
        outside: &OutsideProcess<'_>,
        workload: &mut Workload<'_>,
        proc: &Proc,
        below: &[(&str, &Path)],
    ) -> Result<Child, ExecError> {
        let cgroup = self.cgroup().map(|cgroup| open_cgroup(cgroup, below));
        let cgroup = cgroup.transpose()?;
        let own_cpus = match &workload.affinity().initial {
            Some(cpus) => Some(run_on(cpus)?),
            None => None,
        };
        let mut spawn = |cgroup: Option<&Placement>| {
            let run = |line: Channel| outside.run(workload, proc.as_fd(), line);
            // SAFETY: the caller's promise.
            unsafe { child::spawn(0, cgroup, run) }
        };
        let mut spawned = spawn(cgroup.as_ref());
        if let Err(error) = &spawned
            && error.raw_os_error() == Some(libc::EBUSY)
            && below.is_empty()
            && let Some(inits) = self.inits_cgroup(proc)
        {
            spawned = spawn(Some(&inits));
        }
        drop(own_cpus);
        Ok(spawned.step(|| "clone a process")?)
    }

    /// Returns the init's own cgroup below the container's: a cgroup2 that enables controllers for
    /// its children takes no processes itself, as where the container runs systemd.
    fn inits_cgroup(&self, proc: &Proc) -> Option<Placement> {
        let cgroup = self.cgroup()?;
        let lines = proc.read(&format!("{}/cgroup", self.pid())).ok()?;
        let inits = lines.lines().find_map(|line| line.strip_prefix("0::"))?;
        let below = below(cgroup.v2_path()?, Path::new(inits))?;
        cgroup.placement_below(&[("", below)]).ok()
    }

    /// Opens the root of the container's init, and finds out its namespaces.
    fn enterable<'a>(&'a self, proc: &Proc, spec: &Spec) -> Result<ContainerEntry<'a>, ExecError> {
        let pidfd = self.pidfd().ok_or(ExecError::NotRunning)?;
        let namespaces = OtherNamespaces::of_process(proc, self.pid(), pidfd);
        let linux = spec.linux().as_ref();
        let has_own = linux.is_some_and(|l| has_new_namespace(l, LinuxNamespaceType::Mount));
        let root = if has_own {
            Ok(None)
        } else {
            let path = format!("{}/root", self.pid());
            proc.open_file(&path, OFlag::O_PATH | OFlag::O_DIRECTORY)
                .map(|root| Some(root.into()))
        };
        // The pid was the container's all the time if the process still exists.
        let ended = wait_until_readable(pidfd, Duration::ZERO).unwrap_or(true);
        if ended {
            return Err(ExecError::NotRunning);
        }
        Ok(ContainerEntry {
            namespaces: namespaces.step(|| "look at the container's namespaces")?,
            root: root.step(|| "open the container's root")?,
        })
    }
}

/// Checks `process` against the container's configuration, and compiles its filter.
fn another_workload<'a>(
    linux: &'a Linux,
    process: &'a Process,
) -> Result<Workload<'a>, ConfigError> {
    let config = ProcessConfig::parse(process)?;
    id_map::validate_user(linux, process)?;
    let memory_policy = linux.memory_policy().as_ref().map(memory_policy::parse);
    let profile = linux.seccomp().as_ref().map(Profile::parse).transpose()?;
    Workload::new(config, linux, memory_policy.transpose()?, profile.as_ref())
}

/// Checks that the caller gives what the process is to have.
fn check_options(options: &ExecOptions<'_>, workload: &Workload<'_>) -> Result<(), ExecError> {
    if workload.has_listener() && options.state.is_none() {
        let problem = "it must be told of the container's state, which the caller doesn't give";
        return Err(ConfigError::invalid("linux.seccomp.listenerPath", problem).into());
    }
    if let Some(socket) = &options.console_socket {
        terminal::check_socket(socket.as_fd(), workload.has_terminal())?;
    }
    sys::first_not_inherited(options.preserve_fds)
        .map_or(Ok(()), |fd| Err(ExecError::Descriptor(fd)))
}

/// Restricts this process to `cpus`, so that its child starts there, until the returned value is
/// dropped.
fn run_on(cpus: &Cpus) -> Result<RunsElsewhere, ExecError> {
    let step = "set process.execCPUAffinity.initial";
    let own = Cpus::current().step(|| step)?;
    cpus.set().step(|| step)?;
    Ok(RunsElsewhere { own })
}

/// This process, while it runs on another's CPUs.
struct RunsElsewhere {
    own: Cpus,
}

impl Drop for RunsElsewhere {
    fn drop(&mut self) {
        // These CPUs were allowed before.
        let _ = self.own.set();
    }
}

/// Returns where the cgroup `inner` is below the cgroup directory `outer`. `inner` is relative to
/// the cgroup2 mount, whose path `outer` begins with.
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

/// What the process outside has reported.
struct OutsideReports {
    /// The master of its terminal, unless that was sent to a console socket.
    terminal: Option<OwnedFd>,
    /// The descriptor for the listener of its filter.
    listener: Option<OwnedFd>,
}

/// Receives the reports of the process outside, until only the crossing is left.
fn hear_of_outside(
    outside: &Child,
    console_socket: Option<&OwnedFd>,
    has_listener: bool,
) -> Result<OutsideReports, ExecError> {
    let mut told = OutsideReports {
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
    let line = line.step(|| "copy a descriptor")?;
    let inside = crossing.wait(outside);
    match inside.step(|| "wait for a process to be in the container")? {
        Some(child) => Ok(child),
        None => Err(match line.wait_for_report(Duration::ZERO) {
            Ok(Some(Report::Failed(failure))) => failed(failure),
            _ => {
                let error = io::Error::other("it was killed before");
                StepError::new("make a process in the container", error).into()
            }
        }),
    }
}

/// Lets the process inside go on, and waits for its exec.
fn hear_of_exec(child: &Child, workload: &Workload<'_>) -> Result<(), ExecError> {
    if workload.has_scheduler() {
        workload.set_scheduler(child.pid)?;
        let released = child.channel.release();
        released.step(|| "let the process go on")?;
    }
    match hear(child)? {
        // The exec closed the other end. Or it failed, or the process was killed: its exit status
        // tells which.
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
        Err(error) => Err(StepError::new(HEAR, error).into()),
    }
}

fn failed(failure: Failure) -> ExecError {
    ExecError::Process {
        message: failure.message,
        status: failure.status,
    }
}

fn unasked() -> ExecError {
    StepError::new(HEAR, io::ErrorKind::InvalidData).into()
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
