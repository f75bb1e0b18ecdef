//! Tables for people, with columns as wide as runc's.

use std::fmt;

/// The minimum width of a column.
const MIN_WIDTH: usize = 12;

/// The minimum space between columns.
const PADDING: usize = 3;

/// Rows of cells; the first is the header.
#[derive(Debug)]
pub(super) struct Table<const N: usize>(Vec<[String; N]>);

impl<const N: usize> Table<N> {
    pub(super) fn new(header: [&str; N]) -> Self {
        Self(vec![header.map(String::from)])
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.0.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
            (widest + PADDING).max(MIN_WIDTH)
        });
        for row in &self.0 {
            let mut cells = row.iter().zip(widths).peekable();
            while let Some((cell, width)) = cells.next() {
                match cells.peek() {
                    Some(_) => write!(f, "{cell:width$}")?,
                    None => writeln!(f, "{cell}")?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["ID", "STATUS", "OWNER"]);
        table.row(["a-long-name-x".into(), "running".into(), "root".into()]);
        assert_eq!(
            table.to_string(),
            "ID              STATUS      OWNER\na-long-name-x   running     root\n"
        );
    }
}
