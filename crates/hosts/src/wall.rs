//! A wall clock of a host's own, for the programs of it that are to go by it.
//!
//! The kernel has one CLOCK_REALTIME for all, so the clock is one of libfaketime, which is loaded before a program and answers for the C library.
//! It reads the file of the host at each look, so a step is seen by all at once, as it is when a kernel's clock is set.
//! CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME and the clocks of processes are passed on as they are, and so are the times of files.
//!
//! Waiting is not touched, but for one way of it: `clock_nanosleep` until a moment (TIMER_ABSTIME) is reckoned wrongly by libfaketime 0.9.10. Rust's
//! standard library sleeps for a span; Python's `time.sleep` does not, and fails.
//!
//! Not seen by whoever asks the kernel without the C library: programs in Go, such as etcd, and static ones.

use crate::error::{Error, io};
use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};

/// A host's own wall clock.
#[derive(Debug)]
pub(crate) struct WallClock {
    /// In memory: a disk that is full or stalled is not to hold up those who ask for the time.
    file: PathBuf,
    env: BTreeMap<String, String>,
}

impl WallClock {
    /// Shows what the machine's shows, until it is stepped.
    pub(crate) fn make(folder: &Path, host: &str) -> Result<Self, Error> {
        let library = library();
        if !library.is_file() {
            return Err(Error::NoFaketime { library });
        }
        fs::create_dir_all(folder).map_err(io("make", folder))?;
        let file = folder.join(host);
        let env = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            // No one's idea of the time is older than the step.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        let clock = Self {
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            file,
        };
        clock.set(0)?;
        Ok(clock)
    }

    /// Sets it so many seconds ahead of the machine's; behind if negative.
    pub(crate) fn set(&self, seconds: i64) -> Result<(), Error> {
        // At once or not at all: half a file would be half a number.
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, format!("{seconds:+}\n")).map_err(io("write", &fresh))?;
        fs::rename(&fresh, &self.file).map_err(io("replace", &self.file))
    }

    /// What a program is given that is to go by it.
    pub(crate) fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }
}

/// The variant for programs with threads: it holds a lock while it reads the file.
fn library() -> PathBuf {
    format!("/usr/lib/{ARCH}-linux-gnu/faketime/libfaketimeMT.so.1").into()
}
