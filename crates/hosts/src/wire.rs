//! What a rig says to the init of a host, and what it hears: a JSON text each way, its length before it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};

/// A program to run on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub(crate) words: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) dir: Option<String>,
    pub(crate) stdin: Option<String>,
}

impl Command {
    /// A program and its arguments. It is looked for in the host's `PATH` and sees the host's files.
    pub fn new<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self {
            words: words.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// A line for the shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(["/bin/sh".to_owned(), "-c".to_owned(), line.into()])
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// The folder it starts in; `/` otherwise.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<String>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// What it reads from its stdin; nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = Some(text.into());
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Run to its end and tell what it printed.
    Run { command: Command, timeout_ms: u64 },
    /// Start, with output appended to a log.
    Start { command: Command, log: String },
    /// Wait for the end of what was started.
    Wait { pid: u32, timeout_ms: u64 },
    /// Send a signal.
    Signal { pid: u32, signal: i32 },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Ran(Output),
    Started {
        pid: u32,
    },
    /// `None`: it still runs.
    Ended(Option<Ended>),
    Done,
    Refused {
        said: String,
    },
}

/// What a program printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// As the host numbers it.
    pub pid: u32,
    /// How it ended.
    pub ended: Ended,
    /// At most 16 MiB; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Likewise.
    pub stderr: String,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Not in time; it was killed.
    TimedOut,
}

impl Ended {
    /// Whether it ended with status 0.
    pub fn is_success(self) -> bool {
        self == Ended::Code(0)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "status {code}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
            Ended::TimedOut => f.write_str("a time-out"),
        }
    }
}

/// Above two outputs of the length that is kept, escaped.
const FRAME_BYTES_MAX: u32 = 256 * 1024 * 1024;

pub(crate) fn send<T: Serialize>(stream: &mut impl Write, value: &T) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_le_bytes()[..], &text].concat())
}

pub(crate) fn receive<T: for<'a> Deserialize<'a>>(stream: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a text of {length} bytes"),
        ));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
