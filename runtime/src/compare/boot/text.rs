//! A start for a person at a terminal, and for programs that show traces.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::text::{Unit, quantity};

use super::timeline::Phase;

/// How wide the bars are together, in characters.
const BARS: u64 = 40;

/// Writes the phases, each with a bar at its place in the whole.
pub(super) fn table(phases: &[Phase], isolation: &str) -> String {
    let whole = phases
        .last()
        .map_or(0, |last| last.begin + last.duration)
        .max(1);
    let time = |nanoseconds: u64| quantity(nanoseconds as f64 / 1e9, Unit::Seconds);
    let mut text = format!(
        "a start with --isolation={isolation}, {} to the first byte\n\n",
        time(whole)
    );
    let _ = writeln!(text, "{:20}{:>10}{:>10}", "PHASE", "BEGIN", "TOOK");
    for phase in phases {
        let at = |moment: u64| (u128::from(moment) * u128::from(BARS) / u128::from(whole)) as usize;
        let (begin, end) = (at(phase.begin), at(phase.begin + phase.duration));
        let bar = if end > begin {
            "█".repeat(end - begin)
        } else {
            "▏".to_owned()
        };
        let _ = writeln!(
            text,
            "{:20}{:>10}{:>10}  {:begin$}{bar}",
            phase.name,
            time(phase.begin),
            time(phase.duration),
            "",
        );
    }
    text.push('\n');
    for phase in phases {
        let _ = writeln!(text, "{:20}{}", phase.name, phase.about);
    }
    text
}

/// Returns the phases in the Trace Event Format, which Perfetto and chrome://tracing open: times in
/// microseconds.
pub(super) fn trace(phases: &[Phase], isolation: &str) -> Value {
    let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    let events = phases.iter().map(|phase| {
        json!({
            "name": phase.name,
            "cat": isolation,
            "ph": "X",
            "ts": micros(phase.begin),
            "dur": micros(phase.duration),
            "pid": 1,
            "tid": 1,
            "args": { "about": phase.about },
        })
    });
    json!({ "displayTimeUnit": "ms", "traceEvents": events.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_where_their_phases_are() {
        let phase = |name, begin, duration| Phase {
            name,
            begin,
            duration,
            about: "so",
        };
        let phases = [
            phase("plan", 0, 1_000_000),
            phase("hello", 1_000_000, 3_000_000),
        ];
        let text = table(&phases, "vm");
        let expected = format!(
            "hello                  1.00 ms   3.00 ms  {}{}\n",
            " ".repeat(10),
            "█".repeat(30)
        );
        assert!(text.contains(&expected), "{text}");
        let trace = trace(&phases, "vm");
        assert_eq!(trace["traceEvents"][1]["ts"], json!(1000.0));
        assert_eq!(trace["traceEvents"][1]["dur"], json!(3000.0));
    }
}
