//! `nacre exec`: a process that stands for one in the guest.
//!
//! It gets the host's ends of the process's streams from the sandbox process and carries their
//! bytes itself. Signals that it gets go to the process, and it exits as that does. When it is
//! killed, its connection to the sandbox process closes, which has the process killed, too.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use nacre_agent::{
    container::{check_console_socket, inherit_rlimits},
    protocol::Target,
};
use nix::{
    errno::Errno,
    poll::PollFlags,
    sys::{
        prctl::set_pdeathsig,
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpid, setsid},
};

use crate::{
    isolation::{
        console::{self, Raw},
        exec::{ExecRequest, exec_failed},
        signals::{Received, Signals, ends_a_start},
        status_error::StatusError,
        told,
        vm::{
            error::{ClientError, VmError},
            found::VmContainer,
            guest_spec::{cpus, security_modules},
            stand_in::{self, Joined},
            stdio,
            streams::{Relays, Wanted},
            terminal::{self, Terminal},
            wire::{Answer, Ask, Exec, GuestAsk},
        },
        wait::{Interest, is_hung_up, wait},
    },
    log,
    state::Status,
};

use super::client::Client;

/// How long the sandbox process may take to say that the process runs. It gives up on a guest that
/// says nothing long before.
const TIMEOUT: Duration = Duration::from_secs(75);

/// Starts a process in a container with this status; returns its exit status, or 0 if it was
/// detached.
pub(crate) fn exec(
    found: &VmContainer<'_>,
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
    // From here on signals are for the process.
    let signals = Signals::block().map_err(VmError::host("can't block signals"))?;
    let raw = if has_terminal {
        Some(Raw::new().map_err(VmError::host("can't use the terminal of this process"))?)
    } else {
        None
    };
    let terminal = raw.is_some().then_some(Terminal::Foreground);
    let asked = AskedProcess::new(found, request, terminal)?;
    request.told.tell(told::StartedAs::Further, getpid())?;
    let status = asked.stand_in()?.wait(&signals);
    drop(raw);
    status
}

/// From the stand-in: it stands for the guest's process.
const STANDS: u8 = b's';
/// From the stage: it has made the stand-in, with this pid.
const MADE: u8 = b'm';

/// Leaves behind a stand-in for the guest's process. Returns once that process runs.
///
/// The stand-in is a sister of a stage, which enters the namespaces of the container's stand-in,
/// and gives up everything but what it carries.
fn detached(
    found: &VmContainer<'_>,
    request: &ExecRequest<'_>,
    socket: Option<OwnedFd>,
) -> Result<u8, VmError> {
    let failed = VmError::host("can't make a process that stands for the guest's");
    let (ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => return Err(failed(error)),
    };
    // SAFETY: this process has no other thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop(ours);
            let status = stage(found, request, socket, theirs);
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
            // Either may be the first to speak.
            let (mut made, mut stands) = (None, false);
            while made.is_none() || !stands {
                match hear(&ours) {
                    Some((MADE, pid)) => made = Some(pid),
                    Some(_) => stands = true,
                    // Whichever has ended has said why.
                    None => break,
                }
            }
            let of_stage = reap(child);
            let made = match made {
                Some(pid) if stands => pid,
                Some(pid) => return Ok(reap(pid)),
                None => return Ok(of_stage),
            };
            if let Err(error) = request.told.tell(told::StartedAs::Further, made) {
                let _ = kill(made, Signal::SIGKILL);
                reap(made);
                return Err(error.into());
            }
            Ok(0)
        }
        Err(error) => Err(failed(error.into())),
    }
}

fn say(mut link: &UnixStream, word: u8, pid: Pid) -> io::Result<()> {
    let mut words = vec![word];
    words.extend(pid.as_raw().to_le_bytes());
    link.write_all(&words)
}

fn hear(mut link: &UnixStream) -> Option<(u8, Pid)> {
    let mut words = [0; 5];
    link.read_exact(&mut words).ok()?;
    let [word, pid @ ..] = words;
    Some((word, Pid::from_raw(i32::from_le_bytes(pid))))
}

/// Runs as the stage, and then as the stand-in that it makes.
fn stage(
    found: &VmContainer<'_>,
    request: &ExecRequest<'_>,
    socket: Option<OwnedFd>,
    link: UnixStream,
) -> Result<u8, VmError> {
    let failed = || VmError::host("can't make a process that stands for the guest's");
    stand_in::close_inherited().map_err(failed())?;
    stdio::prepare_to_release().map_err(failed())?;
    let signals = Signals::block().map_err(VmError::host("can't block signals"))?;
    let gone = || VmError::from(StatusError::ExecStopped);
    let joined = Joined::find(found.vm.stand_in.ok_or_else(gone)?)?;
    let terminal =
        Terminal::new(request.process, socket).map_err(VmError::host("can't make a terminal"))?;
    // If this process ends, what it has started in the guest is killed.
    let asked = AskedProcess::new(found, request, terminal)?;
    match joined.enter(&found.record.id)? {
        Some(pid) => {
            say(&link, MADE, pid).map_err(failed())?;
            Ok(0)
        }
        None => stand(asked, link, &signals),
    }
}

/// Runs as the stand-in that is left behind.
fn stand(asked: AskedProcess, link: UnixStream, signals: &Signals) -> Result<u8, VmError> {
    // It can't fail: a process that was just made leads no process group.
    let _ = setsid();
    // Until it stands for something, it ends with the command.
    let dies = |signal: Option<Signal>| {
        set_pdeathsig(signal).map_err(|e| VmError::host("can't ask for a signal")(e.into()))
    };
    dies(Some(Signal::SIGKILL))?;
    if is_hung_up(link.as_fd()) {
        return Ok(1);
    }
    let with_terminal = asked.terminal.is_some();
    let stand_in = asked.stand_in()?;
    dies(None)?;
    if with_terminal {
        // Whoever reads both streams waits until both are closed.
        stdio::release_all().map_err(VmError::host("can't let go of the standard streams"))?;
    }
    // It is fine if the command has gone meanwhile: the process runs.
    let _ = say(&link, STANDS, getpid());
    drop(link);
    stand_in.wait(signals)
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

/// A process that runs in the guest, before anything stands for it.
struct AskedProcess {
    client: Client,
    number: u32,
    terminal: Option<Terminal>,
    relays: Relays,
}

/// The stand-in of a process that runs in the guest.
struct ProcessStandIn {
    client: Client,
    /// The process's number.
    number: u32,
    terminal: Option<Terminal>,
    /// At its end of file once all output has been written.
    output: UnixStream,
}

impl AskedProcess {
    /// Has the process started.
    fn new(
        found: &VmContainer<'_>,
        request: &ExecRequest<'_>,
        terminal: Option<Terminal>,
    ) -> Result<Self, VmError> {
        let mut process = request.process.clone();
        security_modules::leave_out(&mut process)?;
        cpus::translate_affinity(&mut process, found.vm.size.cpus);
        inherit_rlimits(&mut process).map_err(VmError::host("can't read this process's limits"))?;
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
        let mut client = found.connect().map_err(|error| match error {
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
        Ok(Self {
            client,
            number,
            terminal,
            relays,
        })
    }

    /// Makes this process its stand-in.
    fn stand_in(mut self) -> Result<ProcessStandIn, VmError> {
        if let Some(terminal) = &mut self.terminal {
            terminal
                .control()
                .map_err(VmError::host("can't make the terminal this process's"))?;
            terminal.give_away()?;
        }
        let output = self
            .relays
            .start()
            .map_err(VmError::host("can't start a stream's thread"))?;
        Ok(ProcessStandIn {
            client: self.client,
            number: self.number,
            terminal: self.terminal,
            output,
        })
    }
}

impl ProcessStandIn {
    /// Waits for the process's end, passing signals on; returns its exit status.
    fn wait(mut self, signals: &Signals) -> Result<u8, VmError> {
        let failed = || VmError::host("can't wait for the process");
        let status = loop {
            let told = self.told();
            if let Some(status) = told {
                break status;
            }
            self.wait_for_news(signals)
                .map_err(|error| failed()(error.into()))?;
            // Signals that don't get through wait in the kernel, which keeps one of each.
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

    /// Returns the process's exit status, if it is known. If the guest is gone, so is the process.
    fn told(&mut self) -> Option<u8> {
        loop {
            match self.client.answer() {
                Ok(Some(Answer::Exited { status })) => return Some(status),
                // The answer to a signal.
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(_) => return Some(128 + libc::SIGKILL as u8),
            }
        }
    }

    fn wait_for_news(&self, signals: &Signals) -> nix::Result<()> {
        let mut of_client = PollFlags::POLLIN;
        of_client.set(PollFlags::POLLOUT, self.client.is_congested());
        let mut of_signals = PollFlags::empty();
        of_signals.set(PollFlags::POLLIN, !self.client.is_congested());
        let client = Interest::new((), self.client.as_fd(), of_client);
        let signals = Interest::new((), signals.as_fd(), of_signals);
        wait(vec![client, signals], None).map(drop)
    }

    fn pass_on(&mut self, signal: Received) {
        let ask = match (&self.terminal, signal.number) {
            (_, libc::SIGCHLD) => return,
            (Some(terminal), libc::SIGWINCH) => match terminal.size() {
                Some(size) => GuestAsk::Resize {
                    process: self.number,
                    size,
                },
                None => return,
            },
            // Signals of the terminal itself, which the guest's terminal sends to the process.
            (Some(terminal), _) if terminal.is_pair() && signal.by_kernel => return,
            (_, signal) => GuestAsk::Signal {
                signal,
                to: Target::Process(self.number),
            },
        };
        // If it can't be sent, the sandbox process is gone, which the next wait for it shows.
        let _ = self.client.send(&Ask::Guest(ask));
    }
}

/// What is waited for once the process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Output,
    Signals,
}

/// Waits until whoever reads the output has taken the rest of it, which is when `output` is at its
/// end of file, or until a signal says that nobody will: the process it was meant for has ended.
fn drain(output: &UnixStream, signals: &Signals) -> io::Result<()> {
    loop {
        let interests = vec![
            Interest::readable(Awaited::Output, output.as_fd()),
            Interest::readable(Awaited::Signals, signals.as_fd()),
        ];
        if wait(interests, None)?.has(Awaited::Output) {
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
