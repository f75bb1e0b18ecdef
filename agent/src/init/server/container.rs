//! A container and the processes that were started in it, until the host has been told of
//! their ends.

use std::io;
use std::os::fd::AsFd;

use nacre_agent::container::cgroups::OomWatch;
use nacre_agent::protocol::{Answer, Event, Failure, Target, WindowSize};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::super::log;
use super::super::machine::{Started, Workload, failure};
use super::refused;
use super::streams::Carried;

/// A container.
pub(super) struct Container<W> {
    pub(super) id: String,
    /// What it was made of, which processes that are started in it share.
    pub(super) spec: Spec,
    pub(super) no_new_keyring: bool,
    pub(super) state: State<W>,
    pub(super) streams: Carried,
    /// Those whose ends the host hasn't been told.
    pub(super) processes: Vec<Process>,
    pub(super) oom: Option<OomWatch>,
}

pub(super) enum State<W> {
    Alive(W),
    /// Its first process has ended, and all others with it.
    Ended {
        status: u8,
        oom_killed: bool,
    },
    /// The host has been told.
    Told,
}

/// A process that was started in a container.
pub(super) struct Process {
    /// The host's number for it.
    pub(super) number: u32,
    /// Its pid, until it has been reaped; then its exit status.
    state: Result<Pid, u8>,
    streams: Carried,
}

impl Process {
    pub(super) fn new(number: u32, started: &Started, streams: Carried) -> Self {
        Self {
            number,
            state: Ok(started.pid),
            streams,
        }
    }
}

impl<W: Workload> Container<W> {
    /// Its first process, unless that has ended.
    pub(super) fn pid(&self) -> Option<Pid> {
        match &self.state {
            State::Alive(workload) => Some(workload.pid()),
            State::Ended { .. } | State::Told => None,
        }
    }

    /// What to poll for: for each stream, its descriptors.
    pub(super) fn interests(&self) -> impl Iterator<Item = Vec<PollFd<'_>>> {
        let processes = self.processes.iter().map(|process| &process.streams);
        let streams = std::iter::once(&self.streams).chain(processes);
        streams.flat_map(Carried::interests)
    }

    /// What becomes readable when its memory may have run out.
    pub(super) fn oom(&self) -> Option<PollFd<'_>> {
        let oom = self.oom.as_ref()?;
        Some(PollFd::new(oom.as_fd(), PollFlags::POLLIN))
    }

    /// Carries what was found to be ready, in the order of [`Container::interests`].
    pub(super) fn advance(&mut self, found: &mut impl Iterator<Item = Option<PollFlags>>) {
        self.streams.advance(&mut *found);
        for process in &mut self.processes {
            process.streams.advance(&mut *found);
        }
    }

    /// Whether processes were killed for want of memory since this was last asked.
    pub(super) fn ran_out_of_memory(&mut self) -> bool {
        let count = self.oom.as_mut().map(OomWatch::count);
        match count {
            Some(Ok(Some(new))) => new > 0,
            // There is nothing more to come.
            Some(Ok(None) | Err(_)) => {
                self.oom = None;
                false
            }
            None => false,
        }
    }

    /// A child of the agent's has ended. It may be one of this container's.
    pub(super) fn reaped(&mut self, pid: Pid, status: u8) {
        if matches!(&self.state, State::Alive(workload) if workload.pid() == pid) {
            self.end(status);
        }
        let process = self.processes.iter_mut().find(|p| p.state == Ok(pid));
        if let Some(process) = process {
            process.state = Err(status);
            process.streams.drain();
        }
    }

    /// Its first process has ended: so must all others, and then the pipes hold all there
    /// will ever be of its output.
    fn end(&mut self, status: u8) {
        let State::Alive(workload) = &self.state else {
            return;
        };
        let oom_killed = workload.oom_killed();
        let ended = State::Ended { status, oom_killed };
        if let State::Alive(workload) = std::mem::replace(&mut self.state, ended)
            && let Err(error) = workload.destroy()
        {
            log::error(&error.message);
        }
        self.oom = None;
        self.streams.drain();
    }

    /// What the host is to be told of ends, now that all output before them has been sent.
    pub(super) fn ends(&mut self, events: &mut Vec<Event>) {
        let id = &self.id;
        self.processes.retain(|process| match process.state {
            Err(status) if process.streams.is_empty() => {
                events.push(Event::ProcessExited {
                    id: id.clone(),
                    process: process.number,
                    status,
                });
                false
            }
            _ => true,
        });
        if let State::Ended { status, oom_killed } = self.state
            && self.streams.is_empty()
        {
            self.state = State::Told;
            events.push(Event::Exited {
                id: id.clone(),
                status,
                oom_killed,
            });
        }
    }

    /// Whether there is nothing more to tell of it.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Told) && self.processes.is_empty()
    }

    pub(super) fn alive(&mut self) -> Result<&mut W, Failure> {
        match &mut self.state {
            State::Alive(workload) => Ok(workload),
            _ => Err(refused(format!("the container {:?} has ended", self.id))),
        }
    }

    pub(super) fn signal(&mut self, signal: i32, to: Target) -> Result<Answer, Failure> {
        match to {
            Target::First => self.alive()?.signal(signal)?,
            Target::All => self.alive()?.signal_all(signal)?,
            Target::Process(number) => {
                let Ok(pid) = self.process(number)?.state else {
                    return Err(refused(format!("the process {number} has ended")));
                };
                // SAFETY: the call takes no pointers. The process isn't reaped yet, so that the
                // pid is still its own.
                let sent = unsafe { libc::kill(pid.as_raw(), signal) };
                Errno::result(sent).map_err(|error| failure(&error))?;
            }
        }
        Ok(Answer::Done)
    }

    pub(super) fn resize(
        &mut self,
        process: Option<u32>,
        size: WindowSize,
    ) -> Result<Answer, Failure> {
        let streams = match process {
            None => &self.streams,
            Some(number) => &self.process(number)?.streams,
        };
        let resized = streams.resize(size).unwrap_or_else(|| {
            // It may have been closed since.
            Err(io::Error::from(Errno::ENOTTY))
        });
        resized.map_err(|error| failure(&error))?;
        Ok(Answer::Done)
    }

    fn process(&self, number: u32) -> Result<&Process, Failure> {
        let process = self.processes.iter().find(|p| p.number == number);
        process.ok_or_else(|| {
            refused(format!(
                "the container {:?} has no process {number}: it may have ended",
                self.id
            ))
        })
    }
}
