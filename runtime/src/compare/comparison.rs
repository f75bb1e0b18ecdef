//! A comparison from its first step to its last.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    thread::available_parallelism,
};

use crate::{config::Isolation, log::chain, probe};

use super::{
    error::CompareError,
    figures::figures,
    interrupt, likeness,
    report::{Host, Report, VERSION, Wall},
    setting::{Setting, Subject},
    trial::{Bench, Trial},
    wall::wall,
};

/// What is compared, and how often it runs.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) subject: Subject,
    pub(crate) runs: u16,
}

impl Comparison {
    /// Runs the workload in both modes, in turns.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn run(&self) -> Result<Report, CompareError> {
        let host = host();
        // SAFETY: the caller's promise.
        let setting = unsafe { Setting::make(&self.subject) }?;
        let bench = setting.bench();
        let [process, vm] = self.rounds(&bench)?;
        let wall = self.wall(&bench);
        interrupt::check()?;
        Ok(Report {
            version: VERSION,
            nacre: env!("CARGO_PKG_VERSION"),
            bundle: setting.bundle.to_string_lossy().into_owned(),
            arguments: setting.workload.arguments().clone(),
            runs: self.runs,
            host,
            cost: figures(&process, &vm),
            wall: wall.map_err(|error| chain(&error)),
            same: likeness::compare(&process, &vm),
            notes: notes(&setting),
        })
    }

    /// Looks from inside at what stands between the workload and the host.
    fn wall(&self, bench: &Bench<'_>) -> Result<Wall, CompareError> {
        let program = bench.workspace.copy(&self.subject.program)?;
        let probe = bench.workload.with_program(&program, "probe");
        let bench = Bench {
            workload: &probe,
            ..*bench
        };
        let look = |isolation: Isolation| {
            let id = format!("{}-{}-probe", isolation.name(), std::process::id());
            bench.look(isolation, &id)
        };
        let process = look(Isolation::Process)?;
        Ok(wall(&process, &look(Isolation::Vm)?, probe.config()))
    }

    /// Returns the runs in each mode, process mode first. The first of each isn't counted: it fills
    /// the caches.
    fn rounds(&self, bench: &Bench<'_>) -> Result<[Vec<Trial>; 2], CompareError> {
        let mut process = Vec::new();
        let mut vm = Vec::new();
        for round in 0..=self.runs {
            // What only comes second would always find the caches full.
            let mut order = [Isolation::Process, Isolation::Vm];
            order.rotate_left(usize::from(round % 2));
            for isolation in order {
                progress(round, self.runs, isolation);
                let id = format!("{}-{}-{round}", isolation.name(), std::process::id());
                let trial = bench.run(isolation, &id);
                clear_progress();
                let trials = match isolation {
                    Isolation::Process => &mut process,
                    Isolation::Vm => &mut vm,
                };
                let trial = trial?;
                if round > 0 {
                    trials.push(trial);
                }
            }
        }
        Ok([process, vm])
    }
}

/// Says on a terminal what is being done.
fn progress(round: u16, rounds: u16, isolation: Isolation) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let mode = isolation.name();
        let _ = match round {
            0 => write!(stderr, "\rthe first run, which isn't counted: {mode}\x1b[K"),
            _ => write!(stderr, "\rrun {round} of {rounds}: {mode}\x1b[K"),
        };
    }
}

fn clear_progress() {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K");
    }
}

/// Returns what a reader has to know.
fn notes(setting: &Setting) -> Vec<String> {
    let mut notes = setting.workload.notes.clone();
    if setting.workspace.is_in_memory.get() {
        notes.push(
            "what was written to the root was kept in memory, since the directory for temporary files \
             (TMPDIR) is itself on an overlay"
                .to_owned(),
        );
    }
    notes
}

fn host() -> Host {
    let load = fs::read_to_string("/proc/loadavg");
    Host {
        kernel: probe::release(&probe::kernel()).to_owned(),
        cpus: available_parallelism().map_or(1, |cpus| cpus.get()),
        load: load.ok().and_then(|it| it.split(' ').next()?.parse().ok()),
    }
}
