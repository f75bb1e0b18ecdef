//! A start as a list of phases, one after the other.

use nacre_vmm::phase::MARK;
use serde::Serialize;

use super::phases::{PHASES, about};

/// A phase of a start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    /// When it began, in nanoseconds since the start did.
    pub(super) begin: u64,
    /// How long it took, in nanoseconds.
    pub(super) duration: u64,
    /// What happens in it.
    pub(super) about: &'static str,
}

/// Builds the list from the moments at which phases ended, and the start's own beginning.
pub(super) fn timeline(began: u64, mut ends: Vec<(&'static str, u64)>) -> Vec<Phase> {
    // Of those that end at the same moment the order is theirs.
    let order = |name: &str| PHASES.iter().position(|about| about.name == name);
    ends.sort_by_key(|(name, moment)| (*moment, order(name)));
    let mut last = began;
    let mut phases = Vec::new();
    for (name, moment) in ends {
        let moment = moment.max(last);
        phases.push(Phase {
            name,
            begin: last - began,
            duration: moment - last,
            about: about(name).map_or("", |about| about.sentence),
        });
        last = moment;
    }
    phases
}

/// Returns the ends of phases that are told of in a log (JSON lines).
pub(super) fn told(log: &str) -> Vec<(&'static str, u64)> {
    let messages = log.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line["msg"].as_str()?.to_owned())
    });
    let told = messages.filter_map(|message| {
        let (name, moment) = message.strip_prefix(MARK)?.rsplit_once(' ')?;
        Some((about(name)?.name, moment.parse().ok()?))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_begins_where_the_last_one_ended() {
        let log = "{\"msg\":\"phase ended: plan 150\"}\n{\"msg\":\"other\"}\nnot json\n\
                   {\"msg\":\"phase ended: configuration 120\"}\n{\"msg\":\"phase ended: none 7\"}\n";
        let ends = told(log);
        assert_eq!(ends, [("plan", 150), ("configuration", 120)]);
        let phases = timeline(100, ends);
        let seen: Vec<_> = phases
            .iter()
            .map(|it| (it.name, it.begin, it.duration))
            .collect();
        assert_eq!(seen, [("configuration", 0, 20), ("plan", 20, 30)]);
        assert!(phases.iter().all(|phase| !phase.about.is_empty()));
    }
}
