//! Checks `process`, as far as that needs no access to the system.

use oci_spec::runtime::Process;
use rustix::termios::Winsize;

use super::affinity::Affinity;
use super::capabilities::ProcessCapabilities;
use super::error::ConfigError;
use super::program::Program;
use super::scheduler::{self, SchedulerAttributes};
use super::wanted::{elsewhere, says};
use super::{io_priority, rlimits, terminal};

/// The kernel's limit on groups.
const MAX_GROUPS: usize = 65536;

/// The kernel's range for `oom_score_adj`.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1000..=1000;

/// Checks everything about `process` that can be checked without touching the system, and without
/// its container's configuration.
///
/// # Errors
///
/// See [`ConfigError`]; it has the path of the field.
pub fn validate_process(process: &Process) -> Result<(), ConfigError> {
    ProcessConfig::parse(process).map(drop)
}

/// A checked `process`.
#[derive(Debug)]
pub(crate) struct ProcessConfig<'a> {
    /// All of it. What has no field here needs no parsing.
    pub(crate) process: &'a Process,
    pub(crate) program: Program,
    pub(crate) capabilities: ProcessCapabilities,
    pub(crate) affinity: Affinity,
    /// As the kernel takes it.
    pub(crate) io_priority: Option<i32>,
    pub(crate) scheduler: Option<SchedulerAttributes>,
    pub(crate) console_size: Option<Winsize>,
}

impl<'a> ProcessConfig<'a> {
    /// Parses it.
    pub(crate) fn parse(process: &'a Process) -> Result<Self, ConfigError> {
        elsewhere([
            ("process.user.username", says(process.user().username())),
            ("process.commandLine", says(process.command_line())),
        ])?;
        let scheduler = process.scheduler().as_ref().map(scheduler::parse);
        let scheduler = scheduler.transpose()?;
        let affinity = Affinity::parse(process)?;
        let io_priority = process.io_priority().as_ref().map(io_priority::parse);
        let io_priority = io_priority.transpose()?;
        terminal::validate(process)?;
        let program = Program::parse(process)?;
        rlimits::validate(process.rlimits().as_deref().unwrap_or_default())?;
        let capabilities = ProcessCapabilities::parse(process.capabilities().as_ref());
        if let Some(name) = capabilities.effective_without_permitted() {
            return Err(ConfigError::invalid(
                "process.capabilities.effective",
                format!("{name} isn't in the permitted set"),
            ));
        }
        if let Some(adjustment) = process.oom_score_adj()
            && !OOM_SCORE_ADJ.contains(&adjustment)
        {
            return Err(ConfigError::invalid(
                "process.oomScoreAdj",
                format!("{adjustment} isn't between -1000 and 1000"),
            ));
        }
        let user = process.user();
        let groups = user.additional_gids().as_ref().map_or(0, Vec::len);
        if groups > MAX_GROUPS {
            return Err(ConfigError::invalid(
                "process.user.additionalGids",
                format!("{groups} groups are over the kernel's limit of {MAX_GROUPS}"),
            ));
        }
        // The kernel takes it as "leave unchanged".
        for (field, id) in [("uid", user.uid()), ("gid", user.gid())] {
            if id == u32::MAX {
                return Err(ConfigError::invalid(
                    format!("process.user.{field}"),
                    format!("{id} isn't an id"),
                ));
            }
        }
        if let Some(umask) = user.umask()
            && umask > 0o777
        {
            return Err(ConfigError::invalid(
                "process.user.umask",
                format!("{umask:#o} is over 0o777"),
            ));
        }
        Ok(ProcessConfig {
            process,
            program,
            capabilities,
            affinity,
            io_priority,
            scheduler,
            console_size: terminal::size(process),
        })
    }
}
