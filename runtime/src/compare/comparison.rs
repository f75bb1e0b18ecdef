//! A comparison from its first step to its last.

use std::{
    ffi::OsString,
    fs,
    hash::RandomState,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    thread::available_parallelism,
    time::Duration,
};

use crate::{
    config::{Isolation, bundle::Bundle},
    log::chain,
    state::Store,
};

use super::{
    error::CompareError,
    figures::figures,
    interrupt, likeness,
    program::Program,
    report::{Host, Report, VERSION, Wall},
    trial::{Bench, Bounds, Trial},
    wall::wall,
    workload::Workload,
    workspace::Workspace,
};

/// How much a workload may print, in bytes.
const OUTPUT: u64 = 1 << 30;

/// How much it may write to its root.
const STORAGE: u64 = 8 << 30;

/// What is compared, and how.
#[derive(Debug)]
pub(crate) struct Comparison {
    pub(crate) bundle: PathBuf,
    /// What is run instead of the bundle's `process.args`, unless it is empty.
    pub(crate) arguments: Vec<String>,
    pub(crate) runs: u16,
    /// How long each may take.
    pub(crate) timeout: Duration,
    /// This program's file.
    pub(crate) program: PathBuf,
    /// The global flags of the commands that are run.
    pub(crate) flags: Vec<OsString>,
}

impl Comparison {
    /// Runs the workload in both modes, in turns.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn run(&self) -> Result<Report, CompareError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(CompareError::NotRoot);
        }
        let bundle = Bundle::load(&self.bundle)?;
        let workload = Workload::new(&bundle, &self.arguments)?;
        interrupt::catch()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| CompareError::host("adopt containers")(e.into()))?;
        let host = host();
        // SAFETY: the caller's promise.
        let workspace = unsafe { Workspace::make(&self.program) }?;
        let program = Program {
            path: self.program.clone(),
            flags: self.flags(&workspace),
        };
        let store = Store::new(&workspace.state()).map_err(CompareError::host("keep state"))?;
        let bench = Bench {
            program: &program,
            workspace: &workspace,
            workload: &workload,
            store: &store,
            bounds: Bounds {
                time: self.timeout,
                output: OUTPUT,
                storage: STORAGE,
            },
            keys: &RandomState::new(),
        };
        let [process, vm] = self.rounds(&bench)?;
        let wall = self.wall(&bench);
        interrupt::check()?;
        Ok(Report {
            version: VERSION,
            nacre: env!("CARGO_PKG_VERSION"),
            bundle: bundle.directory,
            arguments: workload.arguments().clone(),
            runs: self.runs,
            host,
            cost: figures(&process, &vm),
            wall: wall.map_err(|error| chain(&error)),
            same: likeness::compare(&process, &vm),
            notes: workload.notes,
        })
    }

    /// Looks from inside at what stands between the workload and the host.
    fn wall(&self, bench: &Bench<'_>) -> Result<Wall, CompareError> {
        let program = bench.workspace.copy(&self.program)?;
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

    fn flags(&self, workspace: &Workspace) -> Vec<OsString> {
        let mut flags = vec!["--root".into(), workspace.state().into()];
        flags.extend(self.flags.iter().cloned());
        flags
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

fn host() -> Host {
    let release = nix::sys::utsname::uname().map(|it| it.release().to_string_lossy().into_owned());
    let load = fs::read_to_string("/proc/loadavg");
    Host {
        kernel: release.unwrap_or_default(),
        cpus: available_parallelism().map_or(1, |cpus| cpus.get()),
        load: load.ok().and_then(|it| it.split(' ').next()?.parse().ok()),
    }
}
