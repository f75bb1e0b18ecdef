//! Whether a workload does the same in both modes.

use std::path::PathBuf;

use crate::text::one_line;

use super::{
    output::Printed,
    report::{Likeness, Verdict},
    trial::{End, Trial},
};

/// How many differences are shown.
const SHOWN: usize = 20;

/// How much of a line is shown, in characters.
const WIDTH: usize = 120;

/// Compares the runs of both modes.
pub(super) fn compare(process: &[Trial], vm: &[Trial]) -> Vec<Likeness> {
    vec![
        statuses(process, vm),
        printed("stdout", "standard output", process, vm, |trial| {
            &trial.stdout
        }),
        printed("stderr", "standard error", process, vm, |trial| {
            &trial.stderr
        }),
        files(process, vm),
    ]
}

/// Returns whether something is the same in all runs of each mode, and in both.
fn same<T: PartialEq>(process: &[Trial], vm: &[Trial], of: impl Fn(&Trial) -> T) -> Verdict {
    let steady = |trials: &[Trial]| {
        trials
            .windows(2)
            .all(|two| matches!(two, [a, b] if of(a) == of(b)))
    };
    match (process.first(), vm.first()) {
        _ if !steady(process) || !steady(vm) => Verdict::Varies,
        (Some(a), Some(b)) if of(a) != of(b) => Verdict::Different,
        _ => Verdict::Same,
    }
}

fn statuses(process: &[Trial], vm: &[Trial]) -> Likeness {
    let is = same(process, vm, |trial| trial.end.clone());
    let mut details = Vec::new();
    for (mode, trials) in [("process", process), ("vm", vm)] {
        let mut ends: Vec<String> = trials.iter().map(ended).collect();
        ends.dedup();
        details.push(format!("{mode}: {}", ends.join(", ")));
    }
    if is == Verdict::Same {
        details.truncate(1);
        details
            .iter_mut()
            .for_each(|it| *it = it.replace("process: ", ""));
    }
    Likeness {
        key: "status",
        name: "exit status",
        is,
        details,
    }
}

fn ended(trial: &Trial) -> String {
    let end = match &trial.end {
        End::Exited(status) => status.to_string(),
        End::Killed(bound) => format!("killed, since {bound}"),
    };
    match &trial.failure {
        Some(failure) => format!("{end} ({})", one_line(failure)),
        None => end,
    }
}

fn printed(
    key: &'static str,
    name: &'static str,
    process: &[Trial],
    vm: &[Trial],
    of: impl Fn(&Trial) -> &Printed,
) -> Likeness {
    if !process.iter().chain(vm).all(Trial::is_whole) {
        return Likeness {
            key,
            name,
            is: Verdict::Varies,
            details: vec!["not every run came to its end".into()],
        };
    }
    let is = same(process, vm, |trial| of(trial).hash);
    let mut details = Vec::new();
    if let (Some(a), Some(b)) = (process.first().map(&of), vm.first().map(&of)) {
        match is {
            Verdict::Same => details.push(format!("{} bytes", a.bytes)),
            Verdict::Varies => details.push("it differs from run to run in one mode".into()),
            Verdict::Different => details.extend(first_difference(a, b)),
        }
    }
    Likeness {
        key,
        name,
        is,
        details,
    }
}

/// Returns the first line that differs, in both.
fn first_difference(a: &Printed, b: &Printed) -> Vec<String> {
    let lines = |printed: &Printed| {
        let text = String::from_utf8_lossy(&printed.head).into_owned();
        text.lines().map(shown).collect::<Vec<_>>()
    };
    let (a_lines, b_lines) = (lines(a), lines(b));
    let count = a_lines.len().max(b_lines.len());
    let line = (0..count).find(|i| a_lines.get(*i) != b_lines.get(*i));
    let Some(line) = line else {
        return vec![format!(
            "process: {} bytes; vm: {} bytes; they begin alike",
            a.bytes, b.bytes
        )];
    };
    let at = |lines: &[String]| lines.get(line).cloned().unwrap_or("(nothing)".into());
    let number = line + 1;
    vec![
        format!("process, line {number}: {}", at(&a_lines)),
        format!("vm, line {number}: {}", at(&b_lines)),
    ]
}

/// Returns the beginning of a line that an image has a say in.
fn shown(text: &str) -> String {
    one_line(text).chars().take(WIDTH).collect()
}

fn files(process: &[Trial], vm: &[Trial]) -> Likeness {
    let is_steady = |trials: &[Trial], path: &PathBuf| {
        let mut entries = trials.iter().map(|trial| trial.changes.files.get(path));
        let first = entries.next();
        entries.all(|entry| Some(entry) == first)
    };
    let differences = match (process.first(), vm.first()) {
        (Some(a), Some(b)) => a.changes.differences(&b.changes),
        _ => Vec::new(),
    };
    let (steady, varying): (Vec<_>, Vec<_>) = differences
        .into_iter()
        .partition(|(path, _)| is_steady(process, path) && is_steady(vm, path));
    let count = process.first().map_or(0, |trial| trial.changes.files.len());
    let (is, mut details) = match (steady.is_empty(), varying.is_empty()) {
        (true, true) => (
            Verdict::Same,
            vec![format!("{count} files made, changed or removed")],
        ),
        (true, false) => (Verdict::Varies, Vec::new()),
        (false, _) => (Verdict::Different, Vec::new()),
    };
    for (path, how) in steady.iter().take(SHOWN) {
        let how = how
            .replace("the first", "process mode")
            .replace("the second", "a VM");
        details.push(format!("{}: {how}", shown(&path.to_string_lossy())));
    }
    if steady.len() > SHOWN {
        details.push(format!("and {} more", steady.len() - SHOWN));
    }
    if !varying.is_empty() {
        let number = varying.len();
        details.push(format!("{number} that differ from run to run in one mode"));
    }
    if process.iter().chain(vm).any(|trial| trial.changes.is_cut) {
        details.push("there was more than is looked at".into());
    }
    Likeness {
        key: "files",
        name: "files in the root",
        is,
        details,
    }
}
