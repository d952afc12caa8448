//! Tables in Markdown whose columns are aligned in plain text too: text to the left, figures to the right.

use std::fmt;

/// A table: the first column is text, all others are figures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row; it has as many cells as there are headings.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.rows[0].len(), "a cell for each heading");
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |cell: &String| cell.chars().count();
        (0..columns)
            .map(|column| {
                self.rows.iter().filter_map(|row| row.get(column)).map(width).max().unwrap_or(0).max(2)
            })
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 { write!(f, "| {cell:<width$} ")? } else { write!(f, "| {cell:>width$} ")? }
            }
            writeln!(f, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width - 1);
                    if column == 0 { write!(f, "| -{dashes} ")? } else { write!(f, "| {dashes}: ")? }
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards both readers: a terminal wants columns, Markdown wants the line of dashes.
    #[test]
    fn a_table_is_aligned_and_markdown() {
        let mut table = Table::new(&["way", "ms"]);
        table.row(vec!["short".into(), "7.0".into()]);
        table.row(vec!["a".into(), "1651".into()]);
        let expected = "\
| way   |   ms |
| ----- | ---: |
| short |  7.0 |
| a     | 1651 |
";
        assert_eq!(table.to_string(), expected);
    }
}
