//! The result for a person at a terminal.

use std::fmt::Write as _;

use crate::text::{Unit, harmless, one_line, quantity, words};

use super::{
    report::{Figure, Report, Verdict, Wall},
    summary::{Measured, Summary},
};

/// How wide text is.
const WIDTH: usize = 100;

/// Writes the tables.
pub(super) fn text(report: &Report) -> String {
    let mut text = format!(
        "{} {} in each mode of {}, in {}\n",
        report.runs,
        if report.runs == 1 { "run" } else { "runs" },
        words(&report.arguments),
        report.bundle,
    );
    let host = &report.host;
    let load = host
        .load
        .map(|load| format!(", load {load:.1}"))
        .unwrap_or_default();
    let _ = writeln!(text, "on Linux {}, {} CPUs{load}", host.kernel, host.cpus);
    for note in &report.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let _ = writeln!(text, "\nCOST (median, least to most)");
    let mut rows = vec![["", "process", "vm", "vm / process"].map(String::from)];
    rows.extend(report.cost.iter().map(row));
    text.push_str(&aligned(&rows));
    text.push_str(&wall(&report.wall));
    text.push_str("\nSAME?\n");
    for likeness in &report.same {
        let is = match likeness.is {
            Verdict::Same => "same",
            Verdict::Different => "DIFFERENT",
            Verdict::Varies => "varies",
        };
        let mut details = likeness.details.iter();
        let first = details.next().map(String::as_str).unwrap_or_default();
        let _ = writeln!(text, "{:20}{is:12}{first}", likeness.name);
        for detail in details {
            let _ = writeln!(text, "{:32}{detail}", "");
        }
    }
    text.push_str(&missing(&report.cost));
    // Names, paths and reasons in it are an image's, or whoever wrote the configuration's.
    harmless(&text)
}

/// Writes what stands between the workload and the host.
fn wall(wall: &Result<Wall, String>) -> String {
    let wall = match wall {
        Ok(wall) => wall,
        Err(why) => return format!("\nWALL\nit couldn't be looked at: {}\n", one_line(why)),
    };
    let mut text = "\nWALL (looked at from inside, by trying)\n".to_owned();
    for line in &wall.lines {
        let _ = writeln!(text, "{}", line.name);
        for (mode, found) in [("process", &line.process), ("vm", &line.vm)] {
            let _ = writeln!(text, "    {mode:10}{}", wrapped(found, 14));
        }
        let _ = writeln!(
            text,
            "    {:10}{}",
            "",
            wrapped(&format!("({})", line.worth), 14)
        );
    }
    text.push_str("\nwho enforces config.json in a VM (in process mode the host's kernel alone)\n");
    let mut by: Vec<(&str, Vec<&str>)> = Vec::new();
    for enforced in &wall.enforced {
        match by.iter_mut().find(|(who, _)| *who == enforced.vm) {
            Some((_, what)) => what.push(enforced.what),
            None => by.push((enforced.vm, vec![enforced.what])),
        }
    }
    for (who, what) in by {
        let _ = writeln!(text, "    {who}:\n        {}", wrapped(&what.join(", "), 8));
    }
    text.push_str("\nwhat an attack on the host's own kernel would meet\n");
    for fact in &wall.host {
        let _ = writeln!(text, "    {:36}{}", fact.name, wrapped(&fact.value, 40));
    }
    text
}

/// Breaks text into lines that begin at a column.
fn wrapped(text: &str, column: usize) -> String {
    let mut wrapped = String::new();
    let mut at = column;
    for word in text.split(' ') {
        let length = word.chars().count();
        if at > column && at + 1 + length > WIDTH {
            let _ = write!(wrapped, "\n{:column$}{word}", "");
            at = column + length;
        } else {
            if at > column {
                wrapped.push(' ');
                at += 1;
            }
            wrapped.push_str(word);
            at += length;
        }
    }
    wrapped
}

fn row(figure: &Figure) -> [String; 4] {
    let cell = |measured: &Measured| match measured.value() {
        Some(summary) => shown(summary, figure.unit),
        None => "-".to_owned(),
    };
    let ratio = match figure.ratio {
        Some(ratio) if ratio < 10.0 => format!("{ratio:.2}"),
        Some(ratio) => format!("{ratio:.0}"),
        None => "-".into(),
    };
    [
        figure.name.to_owned(),
        cell(&figure.process),
        cell(&figure.vm),
        ratio,
    ]
}

fn shown(summary: &Summary, unit: Unit) -> String {
    let [median, min, max] =
        [summary.median, summary.min, summary.max].map(|it| quantity(it, unit));
    if min == max {
        median
    } else {
        format!("{median} ({min} to {max})")
    }
}

/// Returns why figures or ratios are missing, a line for each reason.
fn missing(figures: &[Figure]) -> String {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    let mut add = |reason: String, name| match reasons.iter_mut().find(|(it, _)| *it == reason) {
        Some((_, names)) => names.push(name),
        None => reasons.push((reason, vec![name])),
    };
    for figure in figures {
        let name = figure.name.trim_start();
        match (&figure.process, &figure.vm) {
            (Measured::Missing(process), Measured::Missing(vm)) if process == vm => {
                add(format!("not measured, {vm}"), name);
            }
            (process, vm) => {
                for (mode, measured) in [("process", process), ("vm", vm)] {
                    if let Measured::Missing(why) = measured {
                        add(format!("not measured with --isolation={mode}, {why}"), name);
                    }
                }
            }
        }
        if let Some(doubt) = figure.withheld() {
            add(format!("no verdict: {doubt}"), name);
        }
    }
    let lines = reasons
        .iter()
        .map(|(why, names)| format!("{why}:\n    {}\n", wrapped(&names.join("; "), 4)));
    let lines: String = lines.collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\n{lines}")
    }
}

/// Returns rows with columns as wide as their widest cell.
fn aligned(rows: &[[String; 4]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + 3
    };
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_goes_on_below_its_beginning() {
        let word = "x".repeat(WIDTH / 2 - 5);
        let text = format!("{word} {word} {word}");
        assert_eq!(wrapped(&text, 4), format!("{word} {word}\n    {word}"));
        assert_eq!(wrapped("a b", 4), "a b");
    }

    #[test]
    fn what_is_missing_is_said_once() {
        let none = || Measured::Missing("no cgroup".into());
        let figure = |name| Figure::new("key", name, Unit::Bytes, none(), none());
        let text = missing(&[figure("a"), figure("b")]);
        assert_eq!(text, "\nnot measured, no cgroup:\n    a; b\n");
        let value = Measured::new([Some(1.0)], "");
        let text = missing(&[Figure::new("key", "a", Unit::Bytes, value, none())]);
        let expected = "\nnot measured with --isolation=vm, no cgroup:\n    a\n";
        assert_eq!(text, expected);
    }
}
