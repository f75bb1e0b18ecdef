//! The engine's part while a container's init gets ready: it runs the hooks that the init asks for,
//! passes on what the init makes, and does what the init has no right to.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use super::container::Container;
use super::create_error::CreateError;
use super::options::Options;
use crate::container::error::{Step, StepError};
use crate::container::fork::channel::{Channel, Report, with_hooks};
use crate::container::fork::child::Child;
use crate::container::fork::crossing::Crossing;
use crate::container::hooks::{self, Hooks};
use crate::container::kernel::identity::Identity;
use crate::container::kernel::procfs::Proc;
use crate::container::namespaces::entry::Namespaces;
use crate::container::namespaces::id_map;
use crate::container::namespaces::net_devices::GivenDevices;
use crate::container::process::terminal;
use crate::container::process::workload::Workload;
use crate::container::seccomp;

/// How long the init may take to be ready. Only mounting can take time, and without a network file
/// system it takes milliseconds.
const READY_BOUND: Duration = Duration::from_secs(30);

const HEAR: &str = "hear from the container's init";

/// An init that isn't ready yet.
pub(crate) struct Unready<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) linux: &'a Linux,
    pub(crate) options: &'a Options<'a>,
    pub(crate) hooks: Option<&'a Hooks<'a>>,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) workload: &'a Workload<'a>,
    /// How it gets into its pid namespace, if others are in there.
    pub(crate) crossing: Option<&'a Crossing>,
}

impl Unready<'_> {
    /// Waits until it is ready. Returns the channel to it, and the devices that it was given, which
    /// are taken back if it isn't ready in the end.
    pub(crate) fn wait(
        &self,
        container: &mut Container,
        line: Channel,
    ) -> Result<(Channel, Option<GivenDevices>), CreateError> {
        let give = |container: &Container| GivenDevices::give(self.linux, container.init.pid);
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
            // An init that has failed meanwhile has no namespaces any more, and reports why.
            given => given,
        };
        let line = self.hear(container, line, |_| Ok(()))?;
        Ok((line, given?))
    }

    /// Handles its reports until it is ready. Calls `unshared` once it has made its namespaces
    /// itself.
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
                Err(error) => return Err(StepError::new(HEAR, error).into()),
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
                        let proc = Proc::open()?;
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

    /// Waits until the init has replaced the process outside, in the namespace where others are.
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
        let inside = crossing.wait(outside).step(|| HEAR)?;
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
            set?;
            release(container, &line)?;
        }
        Ok(line)
    }

    /// Passes on the listener of the seccomp filter.
    fn tell(&self, container: &Container, listener: Option<OwnedFd>) -> Result<(), CreateError> {
        let (Some(listener), Some(seccomp)) = (listener, self.linux.seccomp()) else {
            return Ok(());
        };
        let pid = container.init.pid;
        let mut state = hooks::creating(self.spec, self.options.id, self.options.bundle);
        state.set_pid(Some(pid));
        Ok(seccomp::tell(seccomp, &listener, pid, state)?)
    }

    /// Passes on the terminal, if somebody else is to get it.
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
        // Its tracer is told first.
        WaitStatus::StillAlive => CreateError::Died("killed, while somebody traced it".into()),
        other => CreateError::Died(format!("{other:?}")),
    }
}

fn unasked() -> CreateError {
    StepError::new(HEAR, io::ErrorKind::InvalidData).into()
}
