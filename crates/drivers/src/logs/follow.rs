//! A log as it grows, line by line, over its rotations.

use super::{LINE_BYTES_MAX, cut_of, line_of, nth, open_shared, tail};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the log is looked at: soon enough for a reader, and nothing to speak of for the machine.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How much is taken in at a look; the rest comes with the next one, at once.
const LOOK_BYTES_MAX: usize = 256 * 1024;

/// Follows a log. Costs nothing while nobody waits for a line.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    keep: u32,
    /// How far the live file was read.
    position: u64,
    /// How much had been cut off the live file when it was last read.
    cut_before: u64,
    /// What was rotated before it was read, oldest first.
    behind: VecDeque<Behind>,
    /// Complete lines that nobody took yet.
    lines: VecDeque<String>,
    /// The beginning of a line of which the end was not written yet.
    partial: Vec<u8>,
    /// Whether the end of `partial` was thrown away because it is too long.
    cut: bool,
}

/// A part of the log that is no longer in the live file.
#[derive(Debug)]
enum Behind {
    /// To be read from here to its end. The descriptor keeps it readable.
    File(File, u64),
    /// Was rotated away.
    Gap,
}

impl Follower {
    /// Begins with the last `lines` lines that are there, then goes on with each new one.
    pub fn new(path: &Path, keep: u32, lines: usize) -> io::Result<Self> {
        let mut follower = Self {
            path: path.to_path_buf(),
            keep,
            position: 0,
            cut_before: 0,
            behind: VecDeque::new(),
            lines: VecDeque::new(),
            partial: Vec::new(),
            cut: false,
        };
        // The lock is held throughout, so that the lines and the position are of the same moment.
        if let Some(live) = open_shared(path)? {
            let (last, size) = tail::ends(path, keep, lines)?;
            follower.cut_before = cut_of(path);
            follower.lines = last.into();
            follower.position = follower.begin_of_unfinished(&live, size)?;
        }
        Ok(follower)
    }

    /// The next line. May be dropped while it waits, without losing one.
    pub async fn next(&mut self) -> io::Result<String> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(line);
            }
            if !self.look()? {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// A last line without its end is not shown yet: it is read again when it is whole.
    fn begin_of_unfinished(&mut self, live: &File, size: u64) -> io::Result<u64> {
        let window = size.min(LINE_BYTES_MAX as u64);
        let mut bytes = vec![0; window as usize];
        live.read_exact_at(&mut bytes, size - window)?;
        if bytes.last().is_none_or(|byte| *byte == b'\n') {
            return Ok(size);
        }
        self.lines.pop_back();
        Ok(match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(newline) => size - window + newline as u64 + 1,
            None => size - window,
        })
    }

    /// Takes in what is new. Returns whether there was anything.
    fn look(&mut self) -> io::Result<bool> {
        let Some(live) = open_shared(&self.path)? else {
            return Ok(false);
        };
        self.note_rotations()?;
        let mut bytes = vec![0; LOOK_BYTES_MAX];
        let (file, position) = match self.behind.front_mut() {
            Some(Behind::File(file, position)) => (&*file, position),
            Some(Behind::Gap) => {
                self.behind.pop_front();
                self.partial.clear();
                self.cut = false;
                self.lines
                    .push_back("… [lines were rotated away before they could be followed]".into());
                return Ok(true);
            }
            None => (&live, &mut self.position),
        };
        let count = file.read_at(&mut bytes, *position)?;
        *position += count as u64;
        if count == 0 && self.behind.pop_front().is_some() {
            return Ok(true);
        }
        self.take_in(&bytes[..count]);
        Ok(count > 0)
    }

    /// Finds out what left the live file since the last look, and keeps what was not read of it.
    fn note_rotations(&mut self) -> io::Result<()> {
        let cut = cut_of(&self.path);
        let moved = cut.saturating_sub(self.cut_before);
        self.cut_before = cut;
        if moved <= self.position {
            self.position -= moved;
            return Ok(());
        }
        let mut missed = moved - self.position;
        self.position = 0;
        let mut rotated = Vec::new();
        for n in 1..=self.keep {
            let Some(file) = open(&nth(&self.path, n))? else { break };
            let size = file.metadata()?.len();
            let unread = missed.min(size);
            rotated.push(Behind::File(file, size - unread));
            missed -= unread;
            if missed == 0 {
                break;
            }
        }
        if missed > 0 {
            self.behind.push_back(Behind::Gap);
        }
        self.behind.extend(rotated.into_iter().rev());
        Ok(())
    }

    fn take_in(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ended = piece.strip_suffix(b"\n");
            let room = LINE_BYTES_MAX + 1 - self.partial.len().min(LINE_BYTES_MAX + 1);
            let text = ended.unwrap_or(piece);
            self.cut |= text.len() > room;
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if ended.is_some() {
                self.lines.push_back(line_of(&self.partial, self.cut));
                self.partial.clear();
                self.cut = false;
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}
