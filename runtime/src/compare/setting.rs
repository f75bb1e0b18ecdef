//! Where a workload is run: everything that its runs have in common.

use std::{ffi::OsString, hash::RandomState, path::PathBuf, time::Duration};

use crate::{config::bundle::Bundle, state::Store};

use super::{
    error::CompareError,
    interrupt,
    program::Program,
    trial::{Bench, Bounds},
    workload::Workload,
    workspace::Workspace,
};

/// How much a workload may print, in bytes.
const OUTPUT: u64 = 1 << 30;

/// How much it may write to its root.
const STORAGE: u64 = 8 << 30;

/// What is run, and how.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) bundle: PathBuf,
    /// What is run instead of the bundle's `process.args`, unless it is empty.
    pub(crate) arguments: Vec<String>,
    /// How long each run may take.
    pub(crate) timeout: Duration,
    /// This program's file.
    pub(crate) program: PathBuf,
    /// The global flags of the commands that are run.
    pub(crate) flags: Vec<OsString>,
}

/// What its runs need.
#[derive(Debug)]
pub(super) struct Setting {
    /// The bundle's directory.
    pub(super) bundle: PathBuf,
    pub(super) workload: Workload,
    pub(super) workspace: Workspace,
    pub(super) program: Program,
    pub(super) store: Store,
    time: Duration,
    keys: RandomState,
}

impl Setting {
    /// Makes it. This process adopts what containers leave behind from here on, and notes the signals that
    /// would end it.
    ///
    /// # Safety
    ///
    /// This process must have a single thread.
    pub(super) unsafe fn make(subject: &Subject) -> Result<Self, CompareError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(CompareError::NotRoot);
        }
        let bundle = Bundle::load(&subject.bundle)?;
        let workload = Workload::new(&bundle, &subject.arguments)?;
        interrupt::catch()?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| CompareError::host("adopt containers")(e.into()))?;
        // SAFETY: the caller's promise.
        let workspace = unsafe { Workspace::make(&subject.program) }?;
        let mut flags = vec!["--root".into(), workspace.state().into()];
        flags.extend(subject.flags.iter().cloned());
        Ok(Self {
            bundle: bundle.directory,
            workload,
            store: Store::new(&workspace.state()).map_err(CompareError::host("keep state"))?,
            workspace,
            program: Program {
                path: subject.program.clone(),
                flags,
            },
            time: subject.timeout,
            keys: RandomState::new(),
        })
    }

    /// Returns what runs it.
    pub(super) fn bench(&self) -> Bench<'_> {
        Bench {
            program: &self.program,
            workspace: &self.workspace,
            workload: &self.workload,
            store: &self.store,
            bounds: Bounds {
                time: self.time,
                output: OUTPUT,
                storage: STORAGE,
            },
            keys: &self.keys,
        }
    }
}
