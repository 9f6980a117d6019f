//! Columns that line up, two spaces apart. Padding is counted before colour is put on.

use super::{Tone, View};

/// One field of a table.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Text in a tone.
    pub(crate) fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }

    /// Text as it comes.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self::new(Tone::Plain, text)
    }

    fn columns(&self) -> usize {
        self.text.chars().count()
    }
}

/// The rows as lines without line breaks, each indented. Columns in which every row is empty are left out.
pub(crate) fn table(view: &View, indent: usize, rows: &[Vec<Cell>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(Cell::columns)
                .max()
                .unwrap_or(0)
        })
        .collect();
    rows.iter().map(|row| line(view, indent, row, &widths)).collect()
}

fn line(view: &View, indent: usize, row: &[Cell], widths: &[usize]) -> String {
    let last = row.iter().rposition(|cell| !cell.text.is_empty()).unwrap_or(0);
    let mut out = " ".repeat(indent);
    for (index, (cell, width)) in row.iter().zip(widths).enumerate().take(last + 1) {
        if *width == 0 {
            continue;
        }
        out.push_str(&view.paint(cell.tone, &cell.text));
        if index < last {
            out.extend(std::iter::repeat_n(' ', width - cell.columns() + 2));
        }
    }
    out
}
