//! The text of a file, and where its lines begin.

use std::fmt;
use std::ops::Range;

/// A file's text with the path under which people know it.
pub(crate) struct Source {
    path: String,
    text: String,
    /// Byte at which each line begins; never empty.
    line_starts: Vec<usize>,
}

/// A line and column, both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let after_newline = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            path: path.into(),
            text: text.into(),
            // A newline at the very end begins no line of its own: nothing is ever pointed at there.
            line_starts: std::iter::once(0)
                .chain(after_newline.filter(|at| *at < text.len()))
                .collect(),
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The same range, within the text, in order and on character boundaries; the end of the file lies on its last line.
    pub(crate) fn tidy(&self, span: &Range<usize>) -> Range<usize> {
        let last = self.text.trim_end_matches(['\n', '\r']).len();
        let floor = |at: usize| self.text.floor_char_boundary(at.min(self.text.len()));
        let start = floor(span.start);
        let start = if start == self.text.len() {
            start.min(last)
        } else {
            start
        };
        start..floor(span.end).max(start)
    }

    pub(crate) fn position(&self, at: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= at).max(1);
        let start = self.line_starts[line - 1];
        let before = self.text.get(start..at).unwrap_or_default();
        Position {
            line,
            column: before.chars().count() + 1,
        }
    }

    /// The whole lines that a range touches, with the range moved to fit them and the number of the first.
    pub(crate) fn excerpt(&self, span: &Range<usize>) -> Excerpt<'_> {
        let first = self.position(span.start).line;
        let last = self.position(span.end.max(span.start + 1) - 1).line;
        let start = self.line_starts[first - 1];
        let end = self.line_starts.get(last).copied().unwrap_or(self.text.len());
        Excerpt {
            text: &self.text[start..end],
            start,
            line: first,
        }
    }
}

/// Some whole lines of a file.
pub(crate) struct Excerpt<'a> {
    pub(crate) text: &'a str,
    /// Byte of the file at which it begins.
    pub(crate) start: usize,
    /// Number of its first line.
    pub(crate) line: usize,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({}, {} bytes)", self.path, self.text.len())
    }
}

/// Text from a file as it may be put into a message: on one line, without control characters, not too long.
pub(crate) fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    let mut out = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == CHARACTERS_MAX {
            out.push('…');
            break;
        }
        if c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
