//! The table that a benchmark prints.

use std::fmt;
use std::time::Duration;

/// Rows of a name and a figure.
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

    /// Adds the median of `times` in millions of instructions (a nanosecond is one), and
    /// returns it.
    pub(crate) fn instructions(
        &mut self,
        what: &str,
        times: impl Iterator<Item = Duration>,
    ) -> f64 {
        let mut millions: Vec<f64> = times.map(|t| t.as_nanos() as f64 / 1e6).collect();
        millions.sort_by(f64::total_cmp);
        let median = millions[millions.len() / 2];
        let (least, most) = (millions[0], millions[millions.len() - 1]);
        self.row(
            what,
            format!("{median:.1} M instructions ({least:.1} to {most:.1})"),
        );
        median
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
