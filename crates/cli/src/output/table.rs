//! Aligned tables without borders.

use comfy_table::{Cell, CellAlignment, Table, presets};
use owo_colors::OwoColorize;

use crate::output::human::printable;

/// A column: its title, and whether its cells stand on the right (numbers with units).
pub(crate) type Column = (&'static str, bool);

/// Lays rows out under their titles. With colours the titles are bold.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>], colours: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|(title, right)| cell(title, *right)));
    for row in rows {
        table.add_row(row.iter().zip(columns).map(|(text, (_, right))| cell(text, *right)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    let bold = |(number, line): (usize, String)| {
        if number == 0 && colours { line.bold().to_string() } else { line }
    };
    lines.enumerate().map(bold).collect::<Vec<_>>().join("\n")
}

/// Lays out pairs of a title and a value; further lines of a value stand below its first.
pub(crate) fn pairs(pairs: &[(&str, String)], colours: bool) -> String {
    let width = pairs.iter().map(|(title, _)| title.len()).max().unwrap_or(0) + 2;
    let mut lines = Vec::new();
    for (title, value) in pairs {
        for (number, line) in value.split('\n').enumerate() {
            let title = if number == 0 { *title } else { "" };
            let padded = format!("{title:width$}");
            let padded = if colours { padded.bold().to_string() } else { padded };
            lines.push(format!("{padded}{}", printable(line)).trim_end().to_owned());
        }
    }
    lines.join("\n")
}

fn cell(text: &str, right: bool) -> Cell {
    let alignment = if right { CellAlignment::Right } else { CellAlignment::Left };
    Cell::new(printable(text)).set_alignment(alignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns must line up with wide and long cells, and a line break in a cell must not tear its row.
    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["web".into(), "1.0 KiB".into(), "a\nb".into()],
            vec!["データ".into(), "312 MiB".into(), String::new()],
        ];
        let text = table(&[("NAME", false), ("SIZE", true), ("MESSAGE", false)], &rows, false);
        assert_eq!(text, "NAME       SIZE  MESSAGE\nweb     1.0 KiB  a\\nb\nデータ  312 MiB");
    }

    #[test]
    fn pairs_keep_lines_apart() {
        let text = pairs(&[("name", "web".into()), ("disks", "a\nb".into())], false);
        assert_eq!(text, "name   web\ndisks  a\n       b");
    }
}
