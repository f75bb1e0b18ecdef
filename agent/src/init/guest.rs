//! The guest as the server sees it, which tests have an implementation of without a guest.

use std::io;
use std::os::fd::OwnedFd;

use nacre_agent::container::Stdio;
use nacre_agent::container::cgroups::{OomWatch, Stats};
use nacre_agent::network::Network;
use nacre_agent::protocol::{Correction, Create, Exec, Failure, ProcessEntry};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Spec};

/// The guest.
pub(super) trait Guest {
    type Workload: Workload;

    /// Connects to a port of the host.
    fn connect(&self, port: u32) -> io::Result<OwnedFd>;

    /// Prepares a container and stops before its workload's exec.
    fn create(&self, create: &Create, stdio: Stdio) -> Result<Self::Workload, Failure>;

    /// Returns how many bytes are kept of what was written to a root that is an overlay, and how
    /// many may be.
    fn written(&self) -> Result<(u64, u64), Failure>;

    /// Makes a container's network what it is on the host; `pid` is the container's first process,
    /// if that exists already.
    fn set_network(&self, id: &str, pid: Option<Pid>, network: &Network) -> Result<(), Failure>;

    /// Drops the caches of files that nobody uses.
    fn forget_files(&self) -> Result<(), Failure>;

    /// Returns what the kernel has logged.
    fn kernel_log(&self) -> Result<String, Failure>;

    /// Moves the wall clock, if a correction is given, and returns what it shows.
    fn clock(&self, correction: Option<Correction>) -> Result<i64, Failure>;
}

/// A container.
pub(super) trait Workload {
    fn pid(&self) -> Pid;
    fn start(&mut self) -> Result<(), Failure>;
    fn signal(&self, signal: i32) -> Result<(), Failure>;
    fn oom_killed(&self) -> bool;

    /// Returns the master of its terminal, if it has one.
    fn take_terminal(&mut self) -> Option<OwnedFd>;

    /// Starts another process in the container of `spec`, in the session keyring of that name. It
    /// is a child of this process, and the caller reaps it.
    fn exec(
        &self,
        spec: &Spec,
        keyring: Option<&str>,
        exec: &Exec,
        stdio: Stdio,
    ) -> Result<Started, Failure>;

    /// Sends a signal to all of its processes.
    fn signal_all(&self, signal: i32) -> Result<(), Failure>;

    /// Lists its processes.
    fn processes(&self) -> Result<Vec<ProcessEntry>, Failure>;

    /// Returns what it uses.
    fn stats(&self) -> Result<Stats, Failure>;

    /// Changes its limits.
    fn update(&self, resources: &LinuxResources) -> Result<(), Failure>;

    /// Returns what reports that its memory has run out.
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
    /// Kills it. It is reaped like any other process that has ended.
    pub(super) fn kill(&self) {
        let _ = kill(self.pid, Signal::SIGKILL);
    }
}
