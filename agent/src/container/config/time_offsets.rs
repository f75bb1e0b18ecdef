//! Parses `linux.timeOffsets`
//! ([time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html)).

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use super::error::ConfigError;

/// Returns `linux.timeOffsets` as lines of a clock, seconds and nanoseconds
/// ([time_namespaces(7)](https://man7.org/linux/man-pages/man7/time_namespaces.7.html)).
pub(crate) fn offsets(linux: &Linux) -> String {
    linux
        .time_offsets()
        .iter()
        .flatten()
        .map(|(clock, offset)| {
            let (seconds, nanoseconds) = (offset.secs(), offset.nanosecs());
            let nanoseconds = nanoseconds.unwrap_or(0);
            format!("{clock} {} {nanoseconds}\n", seconds.unwrap_or(0))
        })
        .collect()
}

/// Checks `linux.timeOffsets`.
pub(crate) fn validate_time_offsets(linux: &Linux) -> Result<(), ConfigError> {
    let mut namespaces = linux.namespaces().iter().flatten();
    // The offsets of a joined namespace are fixed.
    let has_new = namespaces.any(|n| {
        n.typ() == LinuxNamespaceType::Time && n.path().iter().all(|p| p.as_os_str().is_empty())
    });
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let field = format!("linux.timeOffsets.{clock}");
        if !has_new {
            let problem = "it needs a new time namespace, which the container lacks";
            return Err(ConfigError::invalid(field, problem));
        }
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            let problem = "it isn't a clock that can be set off (monotonic or boottime)";
            return Err(ConfigError::invalid(field, problem));
        }
        if let Some(over) = offset.nanosecs().filter(|n| *n > 999_999_999) {
            let problem = format!("{over} nanoseconds are over a second");
            return Err(ConfigError::invalid(field, problem));
        }
    }
    Ok(())
}
