//! `nacre exec`: a process that stands for one in the guest.
//!
//! It has the host's ends of the process's streams from the sandbox process and carries their
//! bytes itself. Signals that it gets go to the process, and it exits as that does. When it is
//! killed its connection to the sandbox process closes, which has the process killed, too.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use nacre_agent::{
    container::check_console_socket,
    protocol::{Request, Target},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_pdeathsig,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpid, getppid, setsid},
};

use crate::{
    isolation::{
        StatusError,
        console::{self, Raw},
        exec::{ExecRequest, exec_failed},
        pid_file,
        signals::{Received, Signals},
    },
    log,
    state::Status,
};

use super::client::{Client, ClientError};
use crate::isolation::vm::{
    Found, VmError,
    guest_spec::{cpus, security_modules},
    sandbox::ends_a_start,
    streams::{self, Relays, Wanted},
    terminal::{self, Terminal},
    wire::{Answer, Ask, Exec},
};

/// How long the process may take to get to its program: in the guest, where nothing else is
/// answered meanwhile, it has 60 s.
pub(in crate::isolation::vm) const TIMEOUT: Duration = Duration::from_secs(75);

/// Starts a process in a container that stands so; returns its exit status, or 0 if it was
/// detached.
pub(crate) fn exec(
    found: &Found<'_>,
    status: Status,
    request: &ExecRequest<'_>,
) -> Result<u8, VmError> {
    request.check(status)?;
    if request.preserve_fds > 0 {
        return Err(VmError::ExecDescriptors);
    }
    let has_terminal = console::has_terminal(Some(request.process));
    let socket = console::connect(request.console_socket, has_terminal, request.detach)?;
    if let Some(socket) = &socket {
        check_console_socket(socket.as_fd(), has_terminal)?;
    }
    if request.detach {
        return detached(found, request, socket);
    }
    // From here on a signal is the process's.
    let signals = Signals::block().map_err(VmError::host("can't block signals"))?;
    let raw = match has_terminal {
        true => Some(Raw::new().map_err(VmError::host("can't use the terminal of this process"))?),
        false => None,
    };
    let terminal = raw.is_some().then_some(Terminal::Foreground);
    let status = StandIn::new(found, request, terminal)?.wait(&signals);
    drop(raw);
    status
}

/// Leaves a process behind that stands for the guest's. Returns once that runs.
fn detached(
    found: &Found<'_>,
    request: &ExecRequest<'_>,
    socket: Option<OwnedFd>,
) -> Result<u8, VmError> {
    let failed = VmError::host("can't make a process that stands for the guest's");
    let (mut ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => return Err(failed(error)),
    };
    let parent = getpid();
    // SAFETY: this process has no other thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(ours);
            let status = stand_in(found, request, socket, theirs, parent);
            std::process::exit(
                status
                    .unwrap_or_else(|error| {
                        log::report(&error);
                        exec_failed(error.exit_status())
                    })
                    .into(),
            )
        }
        Ok(ForkResult::Parent { child }) => {
            drop(theirs);
            match ours.read(&mut [0]) {
                Ok(1) => Ok(0),
                // It has said why.
                _ => Ok(reap(child)),
            }
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// The process that is left behind.
fn stand_in(
    found: &Found<'_>,
    request: &ExecRequest<'_>,
    socket: Option<OwnedFd>,
    mut link: UnixStream,
    parent: Pid,
) -> Result<u8, VmError> {
    // It can't fail: a child that was just made leads no group.
    let _ = setsid();
    let signals = Signals::block().map_err(VmError::host("can't block signals"))?;
    // Until it stands for something it ends with the command.
    let dies = |signal: Option<Signal>| {
        set_pdeathsig(signal).map_err(|e| VmError::host("can't ask for a signal")(e.into()))
    };
    dies(Some(Signal::SIGKILL))?;
    if getppid() != parent {
        return Ok(1);
    }
    let terminal =
        Terminal::new(request.process, socket).map_err(VmError::host("can't make a terminal"))?;
    let with_terminal = terminal.is_some();
    let stand_in = StandIn::new(found, request, terminal)?;
    dies(None)?;
    if with_terminal {
        // Whoever reads them waits for the end of both.
        streams::release_all().map_err(VmError::host("can't let go of the standard streams"))?;
    }
    // That the command has gone meanwhile is fine: the process runs.
    let _ = link.write_all(b"r");
    drop(link);
    stand_in.wait(&signals)
}

fn reap(child: Pid) -> u8 {
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, status)) => return (status as u8).max(1),
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as u8,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

/// What stands for a process that runs in the guest.
struct StandIn {
    client: Client,
    /// The container.
    id: String,
    /// The process.
    number: u32,
    terminal: Option<Terminal>,
    /// At its end of file once all output has been written.
    output: UnixStream,
}

impl StandIn {
    /// Has the process started.
    fn new(
        found: &Found<'_>,
        request: &ExecRequest<'_>,
        mut terminal: Option<Terminal>,
    ) -> Result<Self, VmError> {
        let mut process = request.process.clone();
        security_modules::leave_out(&mut process)?;
        cpus::translate_affinity(&mut process, found.vm.size.cpus);
        if let Some(Terminal::Foreground) = &terminal {
            terminal::fit(&mut process);
        }
        let wanted = Wanted::new(terminal.as_ref())
            .map_err(VmError::host("can't look at the standard streams"))?;
        let cgroups = request.cgroups.iter();
        let ask = Ask::Exec(Box::new(Exec {
            process,
            streams: wanted,
            cgroups: cgroups
                .map(|(controller, path)| ((*controller).into(), (*path).into()))
                .collect(),
        }));
        let mut client = Client::connect(&found.folder).map_err(|error| match error {
            ClientError::Gone => StatusError::ExecStopped.into(),
            error => VmError::from(error),
        })?;
        let (answer, ends) = client
            .ask_for_descriptors(&ask, TIMEOUT)
            .map_err(VmError::Exec)?;
        let ends = ends.into_iter().map(UnixStream::from).collect();
        let Answer::Executed { number } = answer else {
            return Err(ClientError::Unasked.into());
        };
        let relays = Relays::new(wanted, terminal.as_ref(), ends);
        let relays = relays.ok_or(ClientError::Unasked)?;
        if let Some(terminal) = &mut terminal {
            terminal.give_away()?;
        }
        if let Some(path) = request.pid_file {
            pid_file::write(path, getpid())?;
        }
        let output = relays
            .start()
            .map_err(VmError::host("can't start a stream's thread"))?;
        Ok(Self {
            client,
            id: found.record.id.clone(),
            number,
            terminal,
            output,
        })
    }

    /// Waits for the process's end, passing signals on; returns its exit status.
    fn wait(mut self, signals: &Signals) -> Result<u8, VmError> {
        let failed = || VmError::host("can't wait for the process");
        let status = loop {
            let told = self.told();
            if let Some(status) = told {
                break status;
            }
            match self.poll(signals) {
                Ok(()) | Err(Errno::EINTR) => {}
                Err(error) => return Err(failed()(error.into())),
            }
            // Those that don't get through wait in the kernel, which keeps one of each.
            while !self.client.is_congested()
                && let Some(signal) = signals
                    .next()
                    .map_err(VmError::host("can't read a signal"))?
            {
                self.pass_on(signal);
            }
        };
        drain(&self.output, signals).map_err(failed())?;
        Ok(status)
    }

    /// The process's exit status, if it has been told. It has gone with the guest if that has.
    fn told(&mut self) -> Option<u8> {
        loop {
            match self.client.answer() {
                Ok(Some(Answer::Exited { status })) => return Some(status),
                // What became of a signal.
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(_) => return Some(128 + libc::SIGKILL as u8),
            }
        }
    }

    fn poll(&self, signals: &Signals) -> nix::Result<()> {
        let mut of_client = PollFlags::POLLIN;
        of_client.set(PollFlags::POLLOUT, self.client.is_congested());
        let of_signals = match self.client.is_congested() {
            true => PollFlags::empty(),
            false => PollFlags::POLLIN,
        };
        let mut fds = [
            PollFd::new(self.client.as_fd(), of_client),
            PollFd::new(signals.as_fd(), of_signals),
        ];
        poll(&mut fds, PollTimeout::NONE).map(drop)
    }

    fn pass_on(&mut self, signal: Received) {
        let id = self.id.clone();
        let request = match (&self.terminal, signal.number) {
            (_, libc::SIGCHLD) => return,
            (Some(terminal), libc::SIGWINCH) => match terminal.size() {
                Some(size) => Request::Resize {
                    id,
                    process: Some(self.number),
                    size,
                },
                None => return,
            },
            // The terminal's own, of which the guest's tells the process.
            (Some(terminal), _) if terminal.is_pair() && signal.by_kernel => return,
            (_, signal) => Request::Signal {
                id,
                signal,
                to: Target::Process(self.number),
            },
        };
        // If it can't be sent, the sandbox process is gone, which shows when that is waited for.
        let _ = self.client.send(&Ask::Guest(Box::new(request)));
    }
}

/// Waits until whoever reads the output has taken the rest of it, which is when `output` is at its
/// end of file, or a signal says that nobody will: the process that it would be for has ended.
fn drain(output: &UnixStream, signals: &Signals) -> io::Result<()> {
    loop {
        let mut fds = [
            PollFd::new(output.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].any().unwrap_or(true) {
            return Ok(());
        }
        while let Some(signal) = signals.next()? {
            if ends_a_start(signal.number).is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn output_is_waited_for_until_its_end() {
        let signals = Signals::block().unwrap();
        let (output, writing) = UnixStream::pair().unwrap();
        raise(Signal::SIGWINCH).unwrap();
        let has_ended = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                has_ended.store(true, Ordering::SeqCst);
                drop(writing);
            });
            drain(&output, &signals).unwrap();
            assert!(has_ended.load(Ordering::SeqCst));
        });
    }

    #[test]
    fn a_signal_that_ends_a_process_ends_the_wait_for_output() {
        let signals = Signals::block().unwrap();
        let (output, _writing) = UnixStream::pair().unwrap();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ] {
            raise(Signal::SIGWINCH).unwrap();
            raise(signal).unwrap();
            drain(&output, &signals).unwrap();
        }
    }
}
