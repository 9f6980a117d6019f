//! The last lines of a log.

use super::{line_of, nth, open_shared};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read at a time, from the end towards the front.
const CHUNK_BYTES: u64 = 64 * 1024;

/// The last `lines` lines of a log and its `keep` rotated files, oldest first. A last line without its end counts. A log that
/// does not exist yet has no lines.
pub fn tail(path: &Path, keep: u32, lines: usize) -> io::Result<Vec<String>> {
    Ok(ends(path, keep, lines)?.0)
}

/// The last lines, and how many bytes of the live file they, with all before, make up.
pub(super) fn ends(path: &Path, keep: u32, lines: usize) -> io::Result<(Vec<String>, u64)> {
    let Some(live) = open_shared(path)? else {
        return Ok((Vec::new(), 0));
    };
    let size = live.metadata()?.len();
    let mut collected = Backwards::new(lines);
    let mut done = collected.read(&live, size)?;
    for n in 1..=keep {
        if done {
            break;
        }
        match File::open(nth(path, n)) {
            Ok(file) => done = collected.read(&file, file.metadata()?.len())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok((collected.finish(), size))
}

/// Takes in bytes from the end towards the front.
struct Backwards {
    wanted: usize,
    lines: VecDeque<String>,
    /// The front part of what will be the next line, last byte last.
    partial: VecDeque<u8>,
    /// Bytes of it that were given up because it is too long: those at its end.
    cut: bool,
    /// Whether anything was read: the newline at the very end ends a line and begins none.
    begun: bool,
}

impl Backwards {
    fn new(wanted: usize) -> Self {
        Self {
            wanted,
            lines: VecDeque::new(),
            partial: VecDeque::new(),
            cut: false,
            begun: false,
        }
    }

    /// Reads a file backwards. Returns whether that was enough.
    fn read(&mut self, file: &File, size: u64) -> io::Result<bool> {
        let mut end = size;
        while end > 0 && self.lines.len() < self.wanted {
            let begin = end.saturating_sub(CHUNK_BYTES);
            let mut chunk = vec![0; (end - begin) as usize];
            file.read_exact_at(&mut chunk, begin)?;
            self.take_in(&chunk);
            end = begin;
        }
        Ok(self.lines.len() >= self.wanted)
    }

    fn take_in(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        if !self.begun {
            self.begun = true;
            rest = rest.strip_suffix(b"\n").unwrap_or(rest);
        }
        while self.lines.len() < self.wanted {
            let newline = rest.iter().rposition(|byte| *byte == b'\n');
            self.prepend(&rest[newline.map_or(0, |at| at + 1)..]);
            let Some(newline) = newline else { return };
            self.end_line();
            rest = &rest[..newline];
        }
    }

    fn prepend(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().rev() {
            self.partial.push_front(*byte);
        }
        if self.partial.len() > super::LINE_BYTES_MAX {
            self.cut = true;
            self.partial.truncate(super::LINE_BYTES_MAX);
        }
    }

    fn end_line(&mut self) {
        let line = line_of(self.partial.make_contiguous(), self.cut);
        self.lines.push_front(line);
        self.partial.clear();
        self.cut = false;
    }

    fn finish(mut self) -> Vec<String> {
        // Here the log begins; what was written before has been rotated away.
        if self.begun && self.lines.len() < self.wanted {
            self.end_line();
        }
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_last_lines_are_found_over_all_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-1.log");
        assert_eq!(tail(&path, 3, 10).unwrap(), [""; 0]);
        fs::write(&path, "").unwrap();
        assert_eq!(tail(&path, 3, 10).unwrap(), [""; 0]);
        fs::write(nth(&path, 2), "one\ntwo\nth").unwrap();
        fs::write(nth(&path, 1), "r").unwrap();
        fs::write(&path, "ee\r\n\nfour\nfi").unwrap();
        assert_eq!(tail(&path, 3, 10).unwrap(), ["one", "two", "three", "", "four", "fi"]);
        assert_eq!(tail(&path, 3, 4).unwrap(), ["three", "", "four", "fi"]);
        assert_eq!(tail(&path, 1, 4).unwrap(), ["ree", "", "four", "fi"]);
        assert_eq!(tail(&path, 3, 2).unwrap(), ["four", "fi"]);
        assert_eq!(tail(&path, 3, 0).unwrap(), [""; 0]);
        fs::write(&path, "ee\nlast\n").unwrap();
        assert_eq!(tail(&path, 3, 2).unwrap(), ["three", "last"]);
    }

    #[test]
    fn lines_that_are_no_text_or_too_long_are_shown_as_far_as_they_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-1.log");
        fs::write(
            &path,
            [b"a\xffb\n".to_vec(), b"x".repeat(200_000), b"\nend\n".to_vec()].concat(),
        )
        .unwrap();
        let lines = tail(&path, 0, 3).unwrap();
        assert_eq!((lines[0].as_str(), lines[2].as_str()), ("a\u{fffd}b", "end"));
        assert!(
            lines[1].starts_with(&"x".repeat(super::super::LINE_BYTES_MAX)) && lines[1].ends_with("cut at 16 KiB]")
        );
        assert!(lines[1].len() < 17_000);
    }
}
