//! What the server needs of the guest: the host's connections and the engine.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nacre_agent::container::cgroups::{Cgroup, OomWatch, Stats};
use nacre_agent::container::{Container, ExecOptions, Options, Stdio, describe};
use nacre_agent::network::Network;
use nacre_agent::protocol::{Create, Exec, Failure, ProcessEntry};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Spec};

use super::networks::Networks;
use super::{mounts, overlay, processes, vsock};

/// The guest as the server sees it. Tests have another one, without a guest.
pub(super) trait Guest {
    type Workload: Workload;

    /// Connects to a port of the host.
    fn connect(&self, port: u32) -> io::Result<OwnedFd>;

    /// Prepares a container and stops before its workload's exec.
    fn create(&self, create: &Create, stdio: Stdio) -> Result<Self::Workload, Failure>;

    /// The bytes that are kept of what was written to a root that is an overlay, and how many
    /// may be.
    fn written(&self) -> Result<(u64, u64), Failure>;

    /// Makes the network of a container what it is on the host; `pid` is the container's first
    /// process, if it is there already.
    fn set_network(&self, id: &str, pid: Option<Pid>, network: &Network) -> Result<(), Failure>;

    /// Forgets what is cached of files that nobody uses.
    fn forget_files(&self) -> Result<(), Failure>;

    /// Writes back what file systems of the host's have cached.
    fn sync(&self);
}

/// A container.
pub(super) trait Workload {
    fn pid(&self) -> Pid;
    fn start(&mut self) -> Result<(), Failure>;
    fn signal(&self, signal: i32) -> Result<(), Failure>;
    fn oom_killed(&self) -> bool;

    /// The master of its terminal, if it has one.
    fn take_terminal(&mut self) -> Option<OwnedFd>;

    /// Starts another process in the container of `spec`, in the session keyring of that name.
    /// It is a child of this process, for the caller to reap.
    fn exec(
        &self,
        spec: &Spec,
        keyring: Option<&str>,
        exec: &Exec,
        stdio: Stdio,
    ) -> Result<Started, Failure>;

    /// Sends a signal to all of its processes.
    fn signal_all(&self, signal: i32) -> Result<(), Failure>;

    /// Its processes.
    fn processes(&self) -> Result<Vec<ProcessEntry>, Failure>;

    /// What it uses.
    fn stats(&self) -> Result<Stats, Failure>;

    /// Changes its limits.
    fn update(&self, resources: &LinuxResources) -> Result<(), Failure>;

    /// What tells when its memory has run out.
    fn oom_watch(&self) -> Option<OomWatch>;

    /// Kills what is left of it and removes it. Takes a bounded time.
    fn destroy(self) -> Result<(), Failure>;
}

/// A process that was started in a container.
pub(super) struct Started {
    pub(super) pid: Pid,
    /// The master of its terminal, if it has one.
    pub(super) terminal: Option<OwnedFd>,
}

impl Started {
    /// Kills it, to be reaped with all that have ended.
    pub(super) fn kill(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}

/// The real guest.
#[derive(Default)]
pub(super) struct Machine {
    networks: RefCell<Networks>,
}

impl Guest for Machine {
    type Workload = Container;

    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        vsock::connect_to_host(port)
    }

    fn create(&self, create: &Create, stdio: Stdio) -> Result<Container, Failure> {
        if create.has_share {
            mounts::mount_share().map_err(|error| failure(&error))?;
        }
        if let Some(upper) = create.upper {
            overlay::mount_root(upper).map_err(|error| failure(&error))?;
        }
        let options = Options {
            no_new_keyring: create.no_new_keyring,
            ..Options::new(&create.id, &create.bundle, stdio)
        };
        let networks = self.networks.borrow();
        let spec = networks.enter(&create.id, &create.spec);
        Container::create(&spec, options).map_err(|error| Failure {
            message: describe(&error),
            status: error.exit_status(),
        })
    }

    fn written(&self) -> Result<(u64, u64), Failure> {
        overlay::written().map_err(|error| failure(&error))
    }

    fn set_network(&self, id: &str, pid: Option<Pid>, network: &Network) -> Result<(), Failure> {
        let mut networks = self.networks.borrow_mut();
        let set = networks.set(id, pid, network);
        set.map_err(|error| failure(&error))
    }

    fn forget_files(&self) -> Result<(), Failure> {
        mounts::forget_files().map_err(|error| failure(&error))
    }

    fn sync(&self) {
        overlay::abandon();
        nix::unistd::sync();
    }
}

impl Workload for Container {
    fn pid(&self) -> Pid {
        Container::pid(self)
    }

    fn start(&mut self) -> Result<(), Failure> {
        Container::start(self).map_err(|error| Failure {
            message: describe(&error),
            status: error.exit_status(),
        })
    }

    fn signal(&self, signal: i32) -> Result<(), Failure> {
        Container::signal(self, signal).map_err(|error| failure(&error))
    }

    fn oom_killed(&self) -> bool {
        Container::oom_killed(self)
    }

    fn take_terminal(&mut self) -> Option<OwnedFd> {
        Container::take_terminal(self)
    }

    fn exec(
        &self,
        spec: &Spec,
        keyring: Option<&str>,
        exec: &Exec,
        stdio: Stdio,
    ) -> Result<Started, Failure> {
        let cgroups = exec.cgroups.iter();
        let cgroups: Vec<(&str, &Path)> = cgroups
            .map(|(controller, path)| (controller.as_str(), path.as_path()))
            .collect();
        let options = ExecOptions {
            session_keyring: keyring,
            cgroups: &cgroups,
            ..ExecOptions::new(stdio)
        };
        let executed = Container::exec(self, spec, &exec.process, options);
        let executed = executed.map_err(|error| Failure {
            message: describe(&error),
            status: error.exit_status(),
        })?;
        Ok(Started {
            pid: executed.pid,
            terminal: executed.terminal,
        })
    }

    fn signal_all(&self, signal: i32) -> Result<(), Failure> {
        let sent = cgroup(self)?.signal_all(signal);
        sent.map_err(|error| failure(&error))
    }

    fn processes(&self) -> Result<Vec<ProcessEntry>, Failure> {
        let pids = cgroup(self)?.processes();
        let pids = pids.map_err(|error| failure(&error))?;
        Ok(processes::describe(&pids))
    }

    fn stats(&self) -> Result<Stats, Failure> {
        cgroup(self)?.stats().map_err(|error| failure(&error))
    }

    fn update(&self, resources: &LinuxResources) -> Result<(), Failure> {
        let updated = cgroup(self)?.update(resources);
        updated.map_err(|error| failure(&error))
    }

    fn oom_watch(&self) -> Option<OomWatch> {
        // Without one the host isn't told of what it can do nothing about.
        Container::cgroup(self)?.oom_watch().ok().flatten()
    }

    fn destroy(self) -> Result<(), Failure> {
        Container::destroy(self).map_err(|error| failure(&error))
    }
}

fn cgroup(container: &Container) -> Result<&Cgroup, Failure> {
    container.cgroup().ok_or_else(|| Failure {
        message: "the container has no cgroup".to_owned(),
        status: 1,
    })
}

/// A failure of no particular kind.
pub(super) fn failure(error: &dyn std::error::Error) -> Failure {
    Failure {
        message: describe(error),
        status: 1,
    }
}
