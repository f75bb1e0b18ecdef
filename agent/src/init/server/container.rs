//! A container and the processes started in it, until the host has been told how they ended.

use std::io;
use std::os::fd::AsFd;

use nacre_agent::container::cgroups::OomWatch;
use nacre_agent::protocol::{Answer, Event, Failure, Target, WindowSize};
use nacre_agent::stats::Used;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

use super::super::failure::{failure, refused};
use super::super::guest::{Started, Workload};
use super::super::log;
use super::streams::StreamRelays;

/// A container.
pub(super) struct ServedContainer<W> {
    pub(super) id: String,
    /// What it was made from; processes started in it later share it.
    pub(super) spec: Spec,
    pub(super) no_new_keyring: bool,
    pub(super) state: State<W>,
    pub(super) streams: StreamRelays,
    /// The processes whose ends haven't been reported to the host.
    pub(super) processes: Vec<Process>,
    pub(super) oom: Option<OomWatch>,
}

pub(super) enum State<W> {
    Alive(W),
    /// Its first process has ended, and all the others with it.
    Ended {
        status: u8,
        oom_killed: bool,
        used: Option<Used>,
    },
    /// The host has been told of the end.
    Told,
}

/// A process that was started in a container.
pub(super) struct Process {
    /// The host's number for it.
    pub(super) number: u32,
    /// Its pid, until it has been reaped; then its exit status.
    state: Result<Pid, u8>,
    streams: StreamRelays,
}

impl Process {
    pub(super) fn new(number: u32, started: &Started, streams: StreamRelays) -> Self {
        Self {
            number,
            state: Ok(started.pid),
            streams,
        }
    }
}

impl<W: Workload> ServedContainer<W> {
    /// Returns the pid of the first process, unless that has ended.
    pub(super) fn pid(&self) -> Option<Pid> {
        match &self.state {
            State::Alive(workload) => Some(workload.pid()),
            State::Ended { .. } | State::Told => None,
        }
    }

    /// Returns what to poll for: the descriptors of each stream.
    pub(super) fn interests(&self) -> impl Iterator<Item = Vec<PollFd<'_>>> {
        let processes = self.processes.iter().map(|process| &process.streams);
        let streams = std::iter::once(&self.streams).chain(processes);
        streams.flat_map(StreamRelays::interests)
    }

    /// Returns what becomes readable when the container may have run out of memory.
    pub(super) fn oom(&self) -> Option<PollFd<'_>> {
        let oom = self.oom.as_ref()?;
        Some(PollFd::new(oom.as_fd(), PollFlags::POLLIN))
    }

    /// Carries the streams that were found ready, in the order of [`Container::interests`].
    pub(super) fn advance(&mut self, found: &mut impl Iterator<Item = Option<PollFlags>>) {
        self.streams.advance(&mut *found);
        for process in &mut self.processes {
            process.streams.advance(&mut *found);
        }
    }

    /// Returns whether processes were killed for lack of memory since the last call.
    pub(super) fn ran_out_of_memory(&mut self) -> bool {
        let count = self.oom.as_mut().map(OomWatch::count);
        match count {
            Some(Ok(Some(new))) => new > 0,
            // Nothing more will come.
            Some(Ok(None) | Err(_)) => {
                self.oom = None;
                false
            }
            None => false,
        }
    }

    /// Records that a child of the agent has ended, which may be one of this container's.
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

    /// Ends the container after its first process: all others must end too, and then the pipes hold
    /// all the output there will ever be.
    fn end(&mut self, status: u8) {
        let State::Alive(workload) = &self.state else {
            return;
        };
        let oom_killed = workload.oom_killed();
        let used = workload.stats().as_ref().map(Used::from).ok();
        let ended = State::Ended {
            status,
            oom_killed,
            used,
        };
        if let State::Alive(workload) = std::mem::replace(&mut self.state, ended)
            && let Err(error) = workload.destroy()
        {
            log::error(&error.message);
        }
        self.oom = None;
        self.streams.drain();
    }

    /// Adds to `events` the ends that the host is to be told of, once all output before them has
    /// been sent.
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
        if let State::Ended {
            status,
            oom_killed,
            used,
        } = self.state
            && self.streams.is_empty()
        {
            self.state = State::Told;
            events.push(Event::Exited {
                id: id.clone(),
                status,
                oom_killed,
                used,
            });
        }
    }

    /// Returns whether there is nothing more to report about it.
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
            // It may have been closed in the meantime.
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
