//! What the engine does while a container's init gets ready: it runs the hooks that the init asks
//! for, passes on what the init makes, and does what the init has no right to.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::channel::{Channel, Report, with_hooks};
use super::child::Child;
use super::create::{CreateError, Options, init_failed, starting};
use super::crossing::Crossing;
use super::hooks::{self, Hooks};
use super::id_map;
use super::identity::Identity;
use super::life::Container;
use super::namespaces::Namespaces;
use super::net_devices::Given;
use super::procfs::Proc;
use super::seccomp;
use super::terminal;
use super::workload::Workload;

/// How long the init may take to be ready. Mounting is all that can take time in it, and
/// where a network file system isn't involved, it takes milliseconds.
const READY_BOUND: Duration = Duration::from_secs(30);

const HEAR: &str = "hear from the container's init";

/// An init that is to become ready.
pub(super) struct Unready<'a> {
    pub(super) spec: &'a Spec,
    pub(super) linux: &'a Linux,
    pub(super) options: &'a Options<'a>,
    pub(super) hooks: Option<&'a Hooks<'a>>,
    pub(super) namespaces: &'a Namespaces,
    pub(super) workload: &'a Workload<'a>,
    /// If others are in its pid namespace: how it gets there.
    pub(super) crossing: Option<&'a Crossing>,
}

impl Unready<'_> {
    /// Waits until it is ready. Returns the line to it, and devices that it was given, which are
    /// taken back if it isn't ready in the end.
    pub(super) fn wait(
        &self,
        container: &mut Container,
        line: Channel,
    ) -> Result<(Channel, Option<Given>), CreateError> {
        let give = |container: &Container| Given::give(self.linux, container.init.pid);
        if self.crossing.is_some() {
            let mut given = None;
            let line = self.hear(container, line, |container| {
                given = give(container)?;
                Ok(())
            })?;
            return Ok((line, given));
        }
        let given = match give(container) {
            Err(error) if !error.finds_no_namespace() => return Err(error.into()),
            // An init that has failed meanwhile has no namespaces any more, and says why.
            given => given,
        };
        let line = self.hear(container, line, |_| Ok(()))?;
        Ok((line, given?))
    }

    /// Hears what it has to say until it is ready. `unshared` is called once it has made its
    /// namespaces itself.
    fn hear(
        &self,
        container: &mut Container,
        mut line: Channel,
        mut unshared: impl FnMut(&Container) -> Result<(), CreateError>,
    ) -> Result<Channel, CreateError> {
        let mut bound = READY_BOUND;
        loop {
            let (report, fd) = match line.wait_for_report_and_fd(bound) {
                Ok(Some(heard)) => heard,
                Ok(None) => return Err(how_it_died(container)),
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    return Err(CreateError::TimedOut(bound.as_secs()));
                }
                Err(error) => return Err(starting(HEAR)(error)),
            };
            match (report, self.crossing) {
                (Report::RuntimeHooks, _) => {
                    if let Some(hooks) = self.hooks {
                        hooks.run_in_runtime(container.init.pid)?;
                    }
                    release(container, &line)?;
                }
                (Report::Hooks(seconds), _) => bound = with_hooks(READY_BOUND, seconds),
                (Report::Unshared, Some(_)) => {
                    if self.namespaces.has_new(LinuxNamespaceType::User) {
                        let proc = Proc::open().map_err(init_failed)?;
                        id_map::write(&proc, container.pid(), self.linux)?;
                    }
                    unshared(container)?;
                    release(container, &line)?;
                }
                (Report::Terminal, _) => container.terminal = fd,
                (Report::Crossing, Some(crossing)) if !self.workload.has_listener() => {
                    line = self.cross(container, line, crossing)?;
                }
                (Report::Crossing, Some(_)) => {}
                (Report::Filtered, crossing) => {
                    if let Some(crossing) = crossing {
                        line = self.cross(container, line, crossing)?;
                    }
                    self.tell(container, fd)?;
                }
                (Report::Ready, _) => {
                    self.send_terminal(container)?;
                    return Ok(line);
                }
                (Report::Failed(failure), _) => {
                    return Err(CreateError::Init {
                        message: failure.message,
                        status: failure.status,
                    });
                }
                (Report::Cloned { .. } | Report::Unshared | Report::Crossing, _) => {
                    return Err(unasked());
                }
            }
        }
    }

    /// Waits for the init to be where others are, in the place of the process outside.
    fn cross(
        &self,
        container: &mut Container,
        line: Channel,
        crossing: &Crossing,
    ) -> Result<Channel, CreateError> {
        let pidfd = container.pidfd.take().ok_or_else(unasked)?;
        let outside = Child {
            pid: container.pid(),
            pidfd,
            channel: line,
        };
        let inside = crossing.wait(outside).map_err(starting(HEAR))?;
        let Some(inside) = inside else {
            return Err(CreateError::Died(
                "before it was in its pid namespace".into(),
            ));
        };
        container.init = Identity::of_child(inside.pid);
        container.pidfd = Some(inside.pidfd);
        let line = inside.channel;
        if self.workload.has_scheduler() {
            let set = self.workload.set_scheduler(inside.pid);
            set.map_err(init_failed)?;
            release(container, &line)?;
        }
        Ok(line)
    }

    /// Passes the listener of the filter of system calls on.
    fn tell(&self, container: &Container, listener: Option<OwnedFd>) -> Result<(), CreateError> {
        let (Some(listener), Some(seccomp)) = (listener, self.linux.seccomp()) else {
            return Ok(());
        };
        let pid = container.init.pid;
        let mut state = hooks::creating(self.spec, self.options.id, self.options.bundle);
        state.set_pid(Some(pid));
        Ok(seccomp::tell(seccomp, &listener, pid, state)?)
    }

    /// Passes the terminal on, if somebody else is to have it.
    fn send_terminal(&self, container: &mut Container) -> Result<(), CreateError> {
        if let Some(socket) = &self.options.console_socket
            && let Some(terminal) = container.terminal.take()
        {
            terminal::send(socket, &terminal)?;
        }
        Ok(())
    }
}

fn release(container: &Container, line: &Channel) -> Result<(), CreateError> {
    line.release().map_err(|_| how_it_died(container))
}

fn how_it_died(container: &Container) -> CreateError {
    let status = match container.wait_for_exit() {
        Ok(status) => status,
        Err(error) => return CreateError::Died(error.to_string()),
    };
    match status {
        _ if container.oom_killed() => CreateError::OomKilled,
        WaitStatus::Signaled(_, signal, _) => CreateError::Died(format!("killed by {signal}")),
        WaitStatus::Exited(_, code) => CreateError::Died(format!("exit status {code}")),
        // Who traces it is told first.
        WaitStatus::StillAlive => CreateError::Died("killed, while somebody traced it".into()),
        other => CreateError::Died(format!("{other:?}")),
    }
}

fn unasked() -> CreateError {
    starting(HEAR)(io::Error::from(io::ErrorKind::InvalidData))
}
