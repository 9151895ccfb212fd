//! Text for a screen of eighty columns.

use std::fmt::Write as _;

/// Width of the screen that every line but a server's own words fits on.
pub(super) const WIDTH: usize = 80;

/// A line, or what stands below it.
enum Row {
    Cells(Vec<String>),
    /// Below the row it is about, not in columns, broken into lines of [`WIDTH`].
    Note(String),
}

/// Rows of a table with aligned columns.
pub(super) struct Table {
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![Row::Cells(head.iter().map(|&cell| cell.to_owned()).collect())] }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(Row::Cells(cells));
    }

    pub(super) fn note(&mut self, text: &str) {
        self.rows.push(Row::Note(text.to_owned()));
    }

    fn cells(&self) -> impl Iterator<Item = &Vec<String>> {
        self.rows.iter().filter_map(|row| match row {
            Row::Cells(cells) => Some(cells),
            Row::Note(_) => None,
        })
    }

    /// Lines, indented; numbers to the right, the rest to the left, the last column unpadded.
    pub(super) fn write(&self, out: &mut String, indent: usize) {
        let columns = self.cells().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.cells().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let numeric = |column: usize| {
            self.cells().skip(1).filter_map(|row| row.get(column)).all(|cell| {
                cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
                    && cell.len() < 16
                    && !cell.contains([':', '/'])
            })
        };
        let margin = " ".repeat(indent);
        for row in &self.rows {
            let cells = match row {
                Row::Cells(cells) => cells,
                Row::Note(text) => {
                    wrap(out, &format!("{margin}  "), text);
                    continue;
                }
            };
            let mut line = margin.clone();
            for (column, cell) in cells.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                if numeric(column) {
                    let _ = write!(line, "{cell:>width$}  ");
                } else {
                    let _ = write!(line, "{cell:<width$}  ");
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// A blank at which no line ends: between a number and its unit.
pub(super) const NO_BREAK: char = '\u{a0}';

/// Words in lines of at most [`WIDTH`], each after `margin`; a longer word stands alone.
pub(super) fn wrap(out: &mut String, margin: &str, text: &str) {
    let mut line = String::new();
    let words = text.split(|c: char| c.is_whitespace() && c != NO_BREAK);
    for word in words.filter(|word| !word.is_empty()) {
        let word = word.replace(NO_BREAK, " ");
        let taken = margin.chars().count() + line.chars().count() + word.chars().count();
        if !line.is_empty() && taken + 1 > WIDTH {
            let _ = writeln!(out, "{margin}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    let _ = writeln!(out, "{margin}{line}");
}
