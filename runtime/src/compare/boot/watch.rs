//! Runs a bundle's workload once, and watches its start.

use std::{ffi::OsString, fs};

use serde_json::{Value, json};

use crate::{
    compare::{error::CompareError, setting::Setting, setting::Subject, trial::Trial},
    config::Isolation,
};

use super::{
    kernel,
    text::{table, trace},
    timeline::{timeline, told},
};

/// The version of the JSON document.
const VERSION: u32 = 1;

/// What is to be watched.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) subject: Subject,
    pub(crate) isolation: Isolation,
}

/// What was seen.
pub(crate) struct Watched {
    /// For a person.
    pub(crate) text: String,
    /// For a program.
    pub(crate) document: Value,
    /// In the Trace Event Format.
    pub(crate) trace: Value,
}

/// Watches a start.
///
/// # Errors
///
/// If the workload can't be run, or a signal came.
///
/// # Safety
///
/// This process must have a single thread.
pub(crate) unsafe fn boot(boot: &Boot) -> Result<Watched, CompareError> {
    // SAFETY: the caller's promise.
    let mut setting = unsafe { Setting::make(&boot.subject) }?;
    let log = setting.workspace.log();
    let flags = ["--debug".into(), "--log".into(), OsString::from(&log)];
    setting.program.flags.extend(flags);
    setting
        .program
        .flags
        .extend(["--log-format".into(), "json".into()]);
    let mut kernel_log = None;
    let id = format!("boot-{}", std::process::id());
    let trial = setting.bench().run_and(boot.isolation, &id, |container| {
        kernel_log = container.kernel_log();
    })?;
    let log = fs::read_to_string(&log).map_err(CompareError::workspace("read", log))?;
    let phases = timeline(trial.moments[0], ends(&trial, &log, kernel_log.as_deref()));
    let isolation = boot.isolation.name();
    Ok(Watched {
        text: table(&phases, isolation),
        trace: trace(&phases, isolation),
        document: json!({
            "version": VERSION,
            "nacre": env!("CARGO_PKG_VERSION"),
            "isolation": isolation,
            "unit": "nanoseconds",
            "phases": phases,
        }),
    })
}

/// Returns the moments at which phases ended.
fn ends(trial: &Trial, log: &str, kernel_log: Option<&str>) -> Vec<(&'static str, u64)> {
    let mut ends = told(log);
    let [create, start] = trial.moments;
    // `nacre start` reads the configuration, too.
    ends.retain(|(name, moment)| *name != "configuration" || *moment < start);
    let end_of = |name| {
        ends.iter()
            .find(|(found, _)| *found == name)
            .map(|(_, moment)| *moment)
    };
    // The guest's first instruction: the kernel's clock begins soon after it.
    let power_on = end_of("confinement");
    let hello = end_of("hello");
    if let (Some(power_on), Some(hello), Some(log)) = (power_on, hello, kernel_log) {
        let phases = kernel::phases(log).into_iter();
        let phases = phases.map(|(name, after)| (name, power_on.saturating_add(after).min(hello)));
        ends.extend(phases);
    }
    let nanoseconds = |duration: std::time::Duration| duration.as_nanos() as u64;
    ends.push(("created", create + nanoseconds(trial.creation)));
    ends.push(("asked", start));
    // Without output it is the workload's end.
    let first_byte = trial.first_byte.unwrap_or(trial.exit);
    let after_start = nanoseconds(first_byte.saturating_sub(trial.creation));
    ends.push(("first byte", start + after_start));
    ends
}
