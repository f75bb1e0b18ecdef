//! The event loop: serves the host's requests, processes that end, and the containers' streams.
//!
//! The host is trusted, so reading a request may wait for the rest of it. A workload isn't: nothing
//! here waits for one without a limit.

mod container;
mod streams;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};

use nacre_agent::protocol::{
    self, Answer, Create, Event, Exec, Failure, Hello, Request, Streams, VERSION,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::utsname::uname;
use nix::unistd::Pid;

use super::error::ServeError;
use super::failure::refused;
use super::guest::{Guest, Workload};
use container::{Process, ServedContainer, State};
use streams::{Connected, StreamRelays};

/// How many processes the host may have started in containers, besides their first ones, whose ends
/// haven't been reported to it. The streams of one take up to six descriptors, of which the agent
/// can have 1024.
const MAX_PROCESSES: usize = 128;

/// Serves the host at the other end of `control` until it hangs up.
/// `children` becomes readable, without blocking, when a child process has ended.
pub(super) fn serve<G: Guest>(
    guest: G,
    control: OwnedFd,
    children: OwnedFd,
) -> Result<(), ServeError> {
    let mut server = Server {
        guest,
        control: control.into(),
        children: children.into(),
        containers: Vec::new(),
    };
    let hello = Hello {
        version: VERSION,
        kernel: uname().map_or_else(
            |_| String::new(),
            |name| name.release().to_string_lossy().into_owned(),
        ),
    };
    server.send(&hello)?;
    while server.turn()? {}
    Ok(())
}

struct Server<G: Guest> {
    guest: G,
    control: File,
    children: File,
    /// The containers that haven't been fully reported to the host.
    containers: Vec<ServedContainer<G::Workload>>,
}

/// What poll found.
struct Ready {
    control: bool,
    children: bool,
    /// For each container watched for it, whether its memory may have run out.
    oom: Vec<bool>,
    /// For each stream of each container, in order, what its last descriptor reports; `None` if
    /// there is nothing to do for it.
    streams: Vec<Option<PollFlags>>,
}

impl<G: Guest> Server<G> {
    /// Waits until something happens, and handles it. Returns false if the host has hung up.
    fn turn(&mut self) -> Result<bool, ServeError> {
        let ready = self.wait()?;
        let mut oom = ready.oom.into_iter();
        let mut found = ready.streams.into_iter();
        let mut events = Vec::new();
        for container in &mut self.containers {
            container.advance(&mut found);
            let look = container.oom().is_some() && oom.next() == Some(true);
            if look && container.ran_out_of_memory() {
                events.push(Event::OutOfMemory {
                    id: container.id.clone(),
                });
            }
        }
        if ready.children {
            self.reap();
        }
        for container in &mut self.containers {
            container.ends(&mut events);
        }
        self.containers.retain(|container| !container.is_over());
        events.iter().try_for_each(|event| self.send(event))?;
        if ready.control {
            return self.serve_request();
        }
        Ok(true)
    }

    fn wait(&self) -> Result<Ready, ServeError> {
        let mut fds = vec![
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.containers.iter().filter_map(ServedContainer::oom));
        let watched = fds.len() - 2;
        let mut counts = Vec::new();
        for interests in self.containers.iter().flat_map(ServedContainer::interests) {
            counts.push(interests.len());
            fds.extend(interests);
        }
        while let Err(error) = poll(&mut fds, PollTimeout::NONE) {
            if error != Errno::EINTR {
                return Err(ServeError::Poll(error.into()));
            }
        }
        // The bit that nix has no name for is POLLRDHUP.
        let mut events = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::POLLHUP));
        let mut next_is_ready = || events.next().is_some_and(|events| !events.is_empty());
        let (control, children) = (next_is_ready(), next_is_ready());
        let oom = (0..watched).map(|_| next_is_ready()).collect();
        let streams = counts
            .into_iter()
            .map(|count| {
                let events: Vec<PollFlags> = events.by_ref().take(count).collect();
                let ready = events.iter().any(|events| !events.is_empty());
                events.last().copied().filter(|_| ready)
            })
            .collect();
        Ok(Ready {
            control,
            children,
            oom,
            streams,
        })
    }

    /// Reaps every child process that has ended: those of containers, and orphans that PID 1 has
    /// inherited.
    fn reap(&mut self) {
        let mut notices = [0; 1024];
        let _ = self.children.read(&mut notices);
        while let Some((pid, status)) = reap_one() {
            for container in &mut self.containers {
                container.reaped(pid, status);
            }
        }
    }

    fn serve_request(&mut self) -> Result<bool, ServeError> {
        let request = match protocol::receive(&mut self.control) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(false),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(ServeError::Receive(error)),
        };
        let result = match request {
            Request::Create(create) => self.create(*create),
            Request::Start { id } => self
                .container(&id)
                .and_then(|container| container.alive()?.start())
                .map(|()| Answer::Done),
            Request::Signal { id, signal, to } => self
                .container(&id)
                .and_then(|container| container.signal(signal, to)),
            Request::Exec(exec) => self.exec(*exec),
            Request::Resize { id, process, size } => self
                .container(&id)
                .and_then(|container| container.resize(process, size)),
            Request::Processes { id } => self
                .container(&id)
                .and_then(|container| container.alive()?.processes())
                .map(Answer::Processes),
            Request::Stats { id } => self
                .container(&id)
                .and_then(|container| container.alive()?.stats())
                .map(|stats| Answer::Stats(Box::new(stats))),
            Request::Written => self
                .guest
                .written()
                .map(|(used, limit)| Answer::Written { used, limit }),
            Request::Update { id, resources } => self
                .container(&id)
                .and_then(|container| container.alive()?.update(&resources))
                .map(|()| Answer::Done),
            Request::Network { id, network } => {
                let container = self.containers.iter().find(|other| other.id == id);
                let pid = container.and_then(ServedContainer::pid);
                self.guest
                    .set_network(&id, pid, &network)
                    .map(|()| Answer::Done)
            }
            Request::ForgetFiles => self.guest.forget_files().map(|()| Answer::Done),
            Request::Clock(correction) => self.guest.clock(correction).map(Answer::Clock),
            Request::KernelLog => self.guest.kernel_log().map(Answer::KernelLog),
            Request::Ping => Ok(Answer::Done),
        };
        self.send(&Event::Reply { result })?;
        Ok(true)
    }

    fn create(&mut self, create: Create) -> Result<Answer, Failure> {
        if self.containers.iter().any(|other| other.id == create.id) {
            let id = create.id;
            return Err(refused(format!("the guest has a container {id:?} already")));
        }
        let Connected {
            stdio,
            mut carried,
            terminal,
        } = self.connect(create.streams)?;
        let mut workload = self.guest.create(&create, stdio)?;
        if let Err(error) = carry_terminal(&mut carried, workload.take_terminal(), terminal) {
            let _ = workload.destroy();
            return Err(error);
        }
        self.containers.push(ServedContainer {
            oom: workload.oom_watch(),
            id: create.id,
            spec: create.spec,
            no_new_keyring: create.no_new_keyring,
            state: State::Alive(workload),
            streams: carried,
            processes: Vec::new(),
        });
        Ok(Answer::Done)
    }

    fn exec(&mut self, exec: Exec) -> Result<Answer, Failure> {
        let running = self.containers.iter().map(|c| c.processes.len());
        if running.sum::<usize>() >= MAX_PROCESSES {
            return Err(refused(format!(
                "{MAX_PROCESSES} processes run in the guest that exec has started, which is the \
                 most"
            )));
        }
        let number = exec.number;
        let container = self.container(&exec.id)?;
        container.alive()?;
        if container.processes.iter().any(|p| p.number == number) {
            return Err(refused(format!("there is a process {number} already")));
        }
        let Connected {
            stdio,
            mut carried,
            terminal,
        } = self.connect(exec.streams)?;
        let container = self.container(&exec.id)?;
        let keyring = (!container.no_new_keyring).then_some(container.id.as_str());
        let State::Alive(workload) = &container.state else {
            return Err(refused("the container has ended".to_owned()));
        };
        let mut started = workload.exec(&container.spec, keyring, &exec, stdio)?;
        if let Err(error) = carry_terminal(&mut carried, started.terminal.take(), terminal) {
            started.kill();
            return Err(error);
        }
        let pid = started.pid.as_raw();
        let process = Process::new(number, &started, carried);
        container.processes.push(process);
        Ok(Answer::Executed { pid })
    }

    fn connect(&self, ports: Streams) -> Result<Connected, Failure> {
        Connected::new(ports, |port| self.guest.connect(port))
            .map_err(|error| refused(format!("can't connect the standard streams: {error}")))
    }

    fn container(&mut self, id: &str) -> Result<&mut ServedContainer<G::Workload>, Failure> {
        let container = self.containers.iter_mut().find(|other| other.id == id);
        container.ok_or_else(|| refused(format!("the guest has no container {id:?}")))
    }

    fn send<T: serde::Serialize>(&mut self, message: &T) -> Result<(), ServeError> {
        protocol::send(&mut self.control, message).map_err(ServeError::Send)
    }
}

/// Adds a process's terminal to its streams, if it has one and the host has a use for it.
fn carry_terminal(
    streams: &mut StreamRelays,
    master: Option<OwnedFd>,
    connection: Option<OwnedFd>,
) -> Result<(), Failure> {
    match (master, connection) {
        (Some(master), Some(connection)) => streams
            .add_terminal(master, connection)
            .map_err(|error| refused(format!("can't use the process's terminal: {error}"))),
        (None, None) => Ok(()),
        (Some(_), None) => Err(refused(
            "process.terminal is true, and there is nobody to use it".to_owned(),
        )),
        (None, Some(_)) => Err(refused(
            "a terminal is to be used, and process.terminal is false".to_owned(),
        )),
    }
}

/// Reaps one child that has ended, if there is one; its exit status is 128+n for signal n.
fn reap_one() -> Option<(Pid, u8)> {
    loop {
        let mut status = 0;
        // With the C library's call: nix doesn't know the realtime signals, which may have ended
        // the process. SAFETY: `status` is valid for the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match Errno::result(pid) {
            Err(Errno::EINTR) => {}
            Err(_) | Ok(0) => return None,
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Some((Pid::from_raw(pid), 128 + libc::WTERMSIG(status) as u8));
            }
            Ok(pid) => return Some((Pid::from_raw(pid), libc::WEXITSTATUS(status) as u8)),
        }
    }
}

#[cfg(test)]
mod tests;
