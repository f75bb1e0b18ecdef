//! What the server needs from the guest: the host's connections and the engine.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nacre_agent::container::cgroups::{Cgroup, CgroupError, OomWatch, Stats};
use nacre_agent::container::{Container, CreateError, ExecOptions, Options, Stdio, describe};
use nacre_agent::network::Network;
use nacre_agent::protocol::{Correction, Create, Exec, Failure, ProcessEntry};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Spec};

use super::failure::failure;
use super::guest::{Guest, Started, Workload};
use super::networks::Networks;
use super::{clock, kernel_log, mounts, overlay, processes, vsock};

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
        mounts::complete(&create.mounts).map_err(|error| failure(&error))?;
        let options = Options {
            no_new_keyring: create.no_new_keyring,
            ..Options::new(&create.id, &create.bundle, stdio)
        };
        let networks = self.networks.borrow();
        let spec = networks.enter(&create.id, &create.spec);
        // SAFETY: the agent has one thread.
        unsafe { Container::create(&spec, options) }.map_err(|error| match error {
            CreateError::Cgroup(error) => of_guests_kernel(&error),
            error => Failure {
                message: describe(&error),
                status: error.exit_status(),
            },
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

    fn kernel_log(&self) -> Result<String, Failure> {
        kernel_log::read().map_err(|error| failure(&error))
    }

    fn clock(&self, correction: Option<Correction>) -> Result<i64, Failure> {
        let corrected = correction.map_or(Ok(()), clock::correct);
        corrected.map_err(|error| Failure {
            message: format!("can't set the guest's clock: {error}"),
            status: 1,
        })?;
        Ok(clock::now())
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
        // SAFETY: the agent has one thread.
        let executed = unsafe { Container::exec(self, spec, &exec.process, options) };
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
        updated.map_err(|error| of_guests_kernel(&error))
    }

    fn oom_watch(&self) -> Option<OomWatch> {
        // Without a watch, the host isn't told of something that it can't do anything about.
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

/// Makes the failure for something that this kernel lacks; another may have it.
fn of_guests_kernel(error: &CgroupError) -> Failure {
    Failure {
        message: format!("in the guest: {}", describe(error)),
        status: 1,
    }
}
