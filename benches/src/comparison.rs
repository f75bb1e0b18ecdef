//! A table of several runtimes' figures, and of the first one's relative to the others'.

use std::fmt;
use std::time::Duration;

use crate::clock::{self, Taken};

/// Rows that each have a description and a figure for each runtime.
pub(crate) struct Comparison {
    title: &'static str,
    runtimes: Vec<&'static str>,
    rows: Vec<(String, Vec<String>)>,
}

impl Comparison {
    /// Makes a table of what the title says, for these runtimes, of which the first is ours.
    pub(crate) fn new(title: &'static str, runtimes: Vec<&'static str>) -> Self {
        Self {
            title,
            runtimes,
            rows: Vec::new(),
        }
    }

    /// Adds a row, and shows it at once: measuring takes a while.
    fn row(&mut self, what: &str, figures: &[f64], shown: Vec<String>) {
        let ratios = figures[1..].iter().map(|theirs| {
            if *theirs > 0.0 {
                format!("{:.2}", figures[0] / theirs)
            } else {
                "-".to_owned()
            }
        });
        let cells: Vec<String> = shown.into_iter().chain(ratios).collect();
        eprintln!("{what}: {}", cells.join(" | "));
        self.rows.push((what.to_owned(), cells));
    }

    /// Adds the medians of the time that each runtime took, with the minima in brackets.
    pub(crate) fn times(&mut self, what: &str, times: Vec<Vec<Duration>>) {
        let mut medians = Vec::new();
        let mut shown = Vec::new();
        for mut times in times {
            times.sort_unstable();
            let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
            let median = milliseconds(times[times.len() / 2]);
            shown.push(format!("{median:.2} ms ({:.2})", milliseconds(times[0])));
            medians.push(median);
        }
        self.row(what, &medians, shown);
    }

    /// Adds the medians in millions of instructions, with the waiting time.
    pub(crate) fn instructions(&mut self, what: &str, taken: Vec<Vec<Taken>>) {
        let medians: Vec<Taken> = taken.into_iter().map(clock::median).collect();
        let shown = medians.iter().map(Taken::to_string).collect();
        let figures: Vec<f64> = medians.iter().map(Taken::millions).collect();
        self.row(what, &figures, shown);
    }

    /// Adds the medians of memory in bytes.
    pub(crate) fn memory(&mut self, what: &str, bytes: Vec<Vec<u64>>) {
        let medians: Vec<f64> = bytes
            .into_iter()
            .map(|mut bytes| {
                bytes.sort_unstable();
                bytes[bytes.len() / 2] as f64 / 1024.0
            })
            .collect();
        let shown = medians.iter().map(|kib| format!("{kib:.0} KiB")).collect();
        self.row(what, &medians, shown);
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = self.runtimes[0];
        let ratios = self.runtimes[1..]
            .iter()
            .map(|name| format!("{ours} / {name}"));
        let names = self.runtimes.iter().map(|name| (*name).to_owned());
        let heads: Vec<String> = names.chain(ratios).collect();
        writeln!(f, "| {} | {} |", self.title, heads.join(" | "))?;
        writeln!(f, "|---|{}", "---|".repeat(heads.len()))?;
        for (what, cells) in &self.rows {
            writeln!(f, "| {what} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}
