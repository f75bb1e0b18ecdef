//! What the server needs of the guest: the host's connections and the engine.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nacre_agent::container::{Container, Options, Stdio, describe};
use nacre_agent::protocol::Failure;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::vsock;

/// The guest as the server sees it. Tests have another one, without a guest.
pub(super) trait Guest {
    type Workload: Workload;

    /// Connects to a port of the host.
    fn connect(&self, port: u32) -> io::Result<OwnedFd>;

    /// Prepares a container and stops before its workload's exec.
    fn create(&self, id: &str, spec: &Spec, stdio: Stdio) -> Result<Self::Workload, Failure>;

    /// Writes back what file systems have cached.
    fn sync(&self);
}

/// A container.
pub(super) trait Workload {
    fn pid(&self) -> Pid;
    fn start(&mut self) -> Result<(), Failure>;
    fn signal(&self, signal: i32) -> Result<(), Failure>;
    fn oom_killed(&self) -> bool;

    /// Kills what is left of it and removes it. Takes a bounded time.
    fn destroy(self) -> Result<(), Failure>;
}

/// The real guest.
pub(super) struct Machine;

impl Guest for Machine {
    type Workload = Container;

    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        vsock::connect_to_host(port)
    }

    fn create(&self, id: &str, spec: &Spec, stdio: Stdio) -> Result<Container, Failure> {
        let options = Options::new(id, Path::new("/"), stdio);
        Container::create(spec, options).map_err(|error| Failure {
            message: describe(&error),
            status: error.exit_status(),
        })
    }

    fn sync(&self) {
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

    fn destroy(self) -> Result<(), Failure> {
        Container::destroy(self).map_err(|error| failure(&error))
    }
}

/// A failure of no particular kind.
pub(super) fn failure(error: &dyn std::error::Error) -> Failure {
    Failure {
        message: describe(error),
        status: 1,
    }
}
