//! The table that a benchmark prints.

use std::fmt;

use crate::clock::{self, Taken};

/// Rows that each have a name and a figure.
pub(crate) struct Table {
    title: String,
    rows: Vec<(String, String)>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, and shows it at once: a measurement takes minutes.
    fn row(&mut self, what: &str, figure: String) {
        eprintln!("{what}: {figure}");
        self.rows.push((what.to_owned(), figure));
    }

    /// Adds the median of `taken` in millions of instructions, and returns it.
    pub(crate) fn instructions(&mut self, what: &str, taken: Vec<Taken>) -> f64 {
        let millions = taken.iter().map(Taken::millions);
        let least = millions.clone().fold(f64::INFINITY, f64::min);
        let most = millions.fold(0.0, f64::max);
        let median = clock::median(taken);
        self.row(what, format!("{median} ({least:.1} to {most:.1})"));
        median.millions()
    }

    pub(crate) fn bytes(&mut self, what: &str, bytes: u64) {
        self.row(
            what,
            format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        );
    }

    pub(crate) fn ratio(&mut self, what: &str, ours: f64, theirs: f64) {
        self.row(what, format!("{:.2}", ours / theirs));
    }

    pub(crate) fn skipped(&mut self, what: &str, why: &str) {
        self.row(what, format!("skipped: {why}"));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} | |\n|---|---|", self.title)?;
        for (what, figure) in &self.rows {
            writeln!(f, "| {what} | {figure} |")?;
        }
        Ok(())
    }
}
