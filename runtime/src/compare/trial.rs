//! One run of the workload in one mode, from `nacre create` to `nacre delete`, as an engine would
//! do it.

use std::{
    ffi::OsStr,
    fs,
    hash::RandomState,
    io::{self, PipeWriter},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

use nacre_agent::{
    container::cgroups::{Cgroup, Stats},
    stats::Used,
};
use serde_json::{Value, json};

use crate::{
    config::Isolation,
    id::Id,
    isolation::{
        FoundContainer, process, vm,
        wait::{Events, Interest, wait},
    },
    state::{By, Store},
};

use super::{
    changes::Changes,
    counters::{Counters, Counts},
    error::CompareError,
    interrupt,
    output::{Printed, Stream},
    program::{Effort, Program, Running, open_pidfd, reap, reap_others},
    sample::{INTERVAL, Samples},
    wall::Look,
    workload::Workload,
    workspace::{Place, Workspace},
};

/// How long the streams may stay open after the workload's end.
const DRAIN: Duration = Duration::from_secs(5);

/// What a run may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) time: Duration,
    /// Bytes of output.
    pub(super) output: u64,
    /// Bytes by which the file system of the container's root may fill up.
    pub(super) storage: u64,
}

/// What all runs have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bench<'a> {
    pub(super) program: &'a Program,
    pub(super) workspace: &'a Workspace,
    pub(super) workload: &'a Workload,
    pub(super) store: &'a Store,
    pub(super) bounds: Bounds,
    pub(super) keys: &'a RandomState,
}

/// How the workload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Exited(u8),
    /// It went beyond a bound, and was killed.
    Killed(&'static str),
}

/// What was measured of a run.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) end: End,
    /// Why a VM failed, if it did.
    pub(super) failure: Option<String>,
    /// When `nacre create` and `nacre start` began, by the clock that phases are told by.
    pub(super) moments: [u64; 2],
    /// How long `nacre create` took.
    pub(super) creation: Duration,
    /// From the begin of `nacre create` to the first byte of output.
    pub(super) first_byte: Option<Duration>,
    /// From the begin of `nacre create` to the workload's end.
    pub(super) exit: Duration,
    /// The CPU time of nacre's commands.
    pub(super) commands: Duration,
    /// What the workload has used: in a VM, in its guest.
    pub(super) used: Option<Used>,
    /// What the container's cgroup on the host has counted.
    pub(super) stats: Option<Stats>,
    /// What the host's kernel has counted since the start, or why it hasn't.
    pub(super) counts: Result<Counts, String>,
    pub(super) samples: Samples,
    pub(super) stdout: Printed,
    pub(super) stderr: Printed,
    pub(super) changes: Changes,
}

impl Trial {
    /// Whether the workload came to its end, and wasn't killed on the way.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.end, End::Exited(_))
    }
}

/// What `run` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Started,
    Ended,
    Stdout,
    Stderr,
}

impl Bench<'_> {
    /// Runs the workload once. Nothing of the container is left afterwards.
    pub(super) fn run(&self, isolation: Isolation, id: &str) -> Result<Trial, CompareError> {
        self.run_and(isolation, id, |_| ())
    }

    /// Does something with the container before it is started.
    pub(super) fn run_and(
        &self,
        isolation: Isolation,
        id: &str,
        before: impl FnOnce(&Container<'_>),
    ) -> Result<Trial, CompareError> {
        let mount_point = self.workload.mount_point;
        let place = self.workspace.place(id, &self.workload.root, mount_point)?;
        let id = Id::new(id)?;
        let run = self
            .workload
            .configure(&place)
            .and_then(|()| Container::create(self, isolation, &id, &place))
            .inspect(before)
            .and_then(Container::run);
        let deleted = self.delete(isolation, &id);
        reap_others();
        let (mut trial, deletion) = match (run, deleted) {
            (Ok(trial), Ok(deletion)) => (trial, deletion),
            // Of a container that is still there nothing is touched: the heir tries again.
            (_, Err(error)) => return Err(error),
            (Err(error), Ok(_)) => {
                place.remove();
                return Err(error);
            }
        };
        let changes = Changes::read(&place.changes(), self.keys);
        place.remove();
        interrupt::check()?;
        trial.commands += deletion.cpu;
        trial.changes =
            changes.map_err(CompareError::host("read what the workload has written"))?;
        Ok(trial)
    }

    /// Runs a probe as the workload. Returns what it has printed, if it was a success, and what
    /// confines the container.
    pub(super) fn look(&self, isolation: Isolation, id: &str) -> Result<Look, CompareError> {
        let mut confinement = Value::Null;
        let trial = self.run_and(isolation, id, |container| {
            confinement = container.confinement();
        })?;
        let printed = trial.stdout.head;
        let probe = serde_json::from_slice(&printed).map_err(|_| CompareError::Probe {
            isolation: isolation.name(),
            said: String::from_utf8_lossy(&trial.stderr.head)
                .trim()
                .to_owned(),
        })?;
        Ok(Look {
            isolation,
            probe,
            confinement,
        })
    }

    fn delete(&self, isolation: Isolation, id: &Id) -> Result<Effort, CompareError> {
        let words = [OsStr::new("--force"), OsStr::new(id.as_str())];
        self.program
            .begin(isolation, "delete", &words, None)?
            .undisturbed()
            .finish(said_already)
    }
}

/// A created container.
pub(super) struct Container<'a> {
    bench: &'a Bench<'a>,
    isolation: Isolation,
    id: &'a Id,
    pid: i32,
    end: OwnedFd,
    cgroup: Option<Cgroup>,
    counters: Result<Counters, String>,
    stdout: Stream,
    stderr: Stream,
    creation: Effort,
    /// When it began.
    moment: u64,
    /// How much the file system of its root has left, in bytes.
    left: u64,
    place: &'a Place,
}

impl<'a> Container<'a> {
    fn create(
        bench: &'a Bench<'a>,
        isolation: Isolation,
        id: &'a Id,
        place: &'a Place,
    ) -> Result<Self, CompareError> {
        let pipe = || io::pipe().map_err(CompareError::host("make a pipe"));
        let ((out_reader, out), (err_reader, err)) = (pipe()?, pipe()?);
        let stream = |reader| Stream::new(reader, bench.keys);
        let stream = |reader| stream(reader).map_err(CompareError::host("use a pipe"));
        let (stdout, mut stderr) = (stream(out_reader)?, stream(err_reader)?);
        let pid_file = place.bundle().join("pid");
        let words = [
            OsStr::new("--bundle"),
            place.bundle().as_os_str(),
            OsStr::new("--pid-file"),
            pid_file.as_os_str(),
            OsStr::new(id.as_str()),
        ];
        let streams: [PipeWriter; 2] = [out, err];
        let created = bench
            .program
            .begin(isolation, "create", &words, Some(streams))?;
        let moment = created.moment;
        let creation = created.finish(|| {
            let _ = stderr.read();
            last_line(&stderr)
        })?;
        let pid = fs::read_to_string(&pid_file);
        let pid = pid.map_err(CompareError::workspace("read", pid_file))?;
        let pid = pid.trim().parse().unwrap_or(0);
        let end = open_pidfd(pid).map_err(CompareError::host("watch the container"))?;
        let cgroup = bench.store.record(id)?.cgroup().cloned();
        Ok(Self {
            bench,
            isolation,
            id,
            pid,
            end,
            counters: Counters::open(cgroup.as_ref()),
            cgroup,
            stdout,
            stderr,
            creation,
            moment,
            left: free(&place.changes()),
            place,
        })
    }

    /// Starts it, and follows it to its end.
    fn run(mut self) -> Result<Trial, CompareError> {
        let words = [OsStr::new(self.id.as_str())];
        let start = self
            .bench
            .program
            .begin(self.isolation, "start", &words, None)?;
        let (began, moment) = (start.began, start.moment);
        let (mut start, mut started) = (Some(start), None);
        let (mut first_byte, mut exit, mut killed) = (None, None, None);
        let mut samples = Samples::new(self.isolation);
        samples.take(self.cgroup.as_ref(), self.pid);
        loop {
            let events = self.wait(start.as_ref(), exit.is_none())?;
            for (token, _) in events {
                match token {
                    Woken::Stdout => read(&mut self.stdout)?,
                    Woken::Stderr => read(&mut self.stderr)?,
                    Woken::Ended => exit = Some(Instant::now()),
                    Woken::Started => {
                        if let Some(running) = start.take() {
                            started = Some(running.finish(said_already)?);
                        }
                    }
                }
            }
            if first_byte.is_none() && self.printed() > 0 {
                first_byte = Some(began.elapsed());
            }
            if exit.is_none() {
                samples.take(self.cgroup.as_ref(), self.pid);
            }
            if interrupt::seen().is_some() {
                break;
            }
            if exit.is_none() {
                killed = self.beyond(began.elapsed());
            }
            let has_ended = exit.is_some_and(|exit: Instant| {
                let is_drained = self.stdout.fd().is_none() && self.stderr.fd().is_none();
                start.is_none() && (is_drained || exit.elapsed() > DRAIN)
            });
            if has_ended || killed.is_some() {
                break;
            }
        }
        if let Some(start) = start {
            start.end();
        }
        interrupt::check()?;
        self.finish(Followed {
            began,
            moment,
            first_byte,
            exit,
            killed,
            start: started,
            samples,
        })
    }

    /// Returns what its own kernel has logged.
    pub(super) fn kernel_log(&self) -> Option<String> {
        let seen = self.bench.store.look(self.id).ok()?;
        match FoundContainer::new(self.bench.store, self.id, &seen.record) {
            FoundContainer::Vm(found) => vm::kernel_log(&found, seen.status).ok(),
            FoundContainer::Process(_) => None,
        }
    }

    /// Returns what confines its processes on the host.
    fn confinement(&self) -> Value {
        let Ok(record) = self.bench.store.record(self.id) else {
            return Value::Null;
        };
        match FoundContainer::new(self.bench.store, self.id, &record) {
            FoundContainer::Vm(found) => json!(vm::confinement(&found)),
            FoundContainer::Process(found) => json!(process::confinement(&found)),
        }
    }

    fn wait(&self, start: Option<&Running>, is_alive: bool) -> Result<Events<Woken>, CompareError> {
        let mut interests = Vec::new();
        interests.extend(start.map(|start| Interest::readable(Woken::Started, start.fd())));
        if is_alive {
            interests.push(Interest::readable(Woken::Ended, self.end.as_fd()));
        }
        for (token, stream) in [(Woken::Stdout, &self.stdout), (Woken::Stderr, &self.stderr)] {
            interests.extend(stream.fd().map(|fd| Interest::readable(token, fd)));
        }
        wait(interests, Some(INTERVAL)).map_err(|e| CompareError::host("wait")(e.into()))
    }

    fn printed(&self) -> u64 {
        self.stdout.bytes() + self.stderr.bytes()
    }

    /// Returns the bound that the workload has gone beyond.
    fn beyond(&self, elapsed: Duration) -> Option<&'static str> {
        let bounds = self.bench.bounds;
        let written = self.left.saturating_sub(free(&self.place.changes()));
        [
            (elapsed > bounds.time, "it ran longer than --timeout"),
            (self.printed() > bounds.output, "it printed too much"),
            (written > bounds.storage, "it wrote too much to its root"),
        ]
        .into_iter()
        .find_map(|(is_beyond, bound)| is_beyond.then_some(bound))
    }

    fn finish(self, followed: Followed) -> Result<Trial, CompareError> {
        let end = match followed.killed {
            Some(bound) => End::Killed(bound),
            None => {
                let reaped = reap(self.pid).map_err(CompareError::host("reap the container"))?;
                End::Exited(reaped.0)
            }
        };
        let before = self.creation.wall;
        let commands = self.creation.cpu + followed.start.map_or(Duration::ZERO, |it| it.cpu);
        let exit = followed.exit.unwrap_or_else(Instant::now) - followed.began;
        let stats = self.cgroup.as_ref().and_then(|cgroup| cgroup.stats().ok());
        let (failure, used) = match self.bench.store.record(self.id)?.by {
            By::Vm(vm) => vm.end.map_or((None, None), |end| (end.failure, end.used)),
            By::Process(_) => (None, stats.as_ref().map(Used::from)),
        };
        Ok(Trial {
            end,
            failure,
            moments: [self.moment, followed.moment],
            creation: before,
            first_byte: followed.first_byte.map(|first| before + first),
            exit: before + exit,
            commands,
            used,
            stats,
            counts: self
                .counters
                .as_ref()
                .map(Counters::read)
                .map_err(String::clone),
            samples: followed.samples,
            stdout: self.stdout.printed(),
            stderr: self.stderr.printed(),
            changes: Changes::default(),
        })
    }
}

/// What was seen of a container on its way to its end.
struct Followed {
    began: Instant,
    moment: u64,
    first_byte: Option<Duration>,
    exit: Option<Instant>,
    killed: Option<&'static str>,
    start: Option<Effort>,
    samples: Samples,
}

fn read(stream: &mut Stream) -> Result<(), CompareError> {
    stream
        .read()
        .map_err(CompareError::host("read what the workload prints"))
}

/// What a command has printed that shares this one's standard error.
fn said_already() -> String {
    "it has said why".to_owned()
}

/// Returns the last line of what was printed.
fn last_line(stream: &Stream) -> String {
    let text = String::from_utf8_lossy(stream.head()).trim().to_owned();
    text.lines().last().unwrap_or("it said nothing").to_owned()
}

/// Returns how many bytes a file system has left; 0 if nobody knows.
fn free(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}
