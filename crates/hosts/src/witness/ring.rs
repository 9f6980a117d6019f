//! The file that one process stamps into.
//!
//! ```text
//! 64 bytes   magic, version, capacity, length of the name, name
//! then       records of 32 bytes: slot u32, 0 u32, epoch u64, time u64, number u64; number n lies at n modulo capacity
//! ```
//! All numbers are little-endian, numbers of stamps count from 1, a record of number 0 was never written.

use crate::clock::now_ns;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"WITNESS1";
const HEAD_BYTES: usize = 64;
const RECORD_BYTES: usize = 32;
/// What fits beside magic, capacity and its own length.
const NAME_BYTES_MAX: usize = HEAD_BYTES - 24;

/// One sign of acting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which slot it acted for.
    pub slot: u32,
    /// At which epoch.
    pub epoch: u64,
    /// When, nanoseconds on CLOCK_BOOTTIME.
    pub at_ns: u64,
    /// Counted from 1 in each ring.
    pub number: u64,
}

/// All that a process left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Who stamped.
    pub who: String,
    /// In the order of their numbers.
    pub stamps: Vec<Stamp>,
    /// Older ones that were overwritten.
    pub lost: u64,
}

impl Trace {
    /// What was stamped at and after a time. What was lost before it does not matter then.
    #[must_use]
    pub fn since(mut self, at_ns: u64) -> Self {
        let before = self.stamps.partition_point(|stamp| stamp.at_ns < at_ns);
        if before > 0 {
            self.lost = 0;
        }
        self.stamps.drain(..before);
        self
    }
}

/// Why rings cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// It could not be made, written or read.
    #[error("failed to {what} the ring `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no ring, or one that was cut off.
    #[error("`{}` is not a ring: {why}", path.display())]
    NotARing {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// A ring that is written.
#[derive(Debug)]
pub struct Ring {
    path: PathBuf,
    file: File,
    capacity: u64,
    number: u64,
}

impl Ring {
    /// Makes a new one in a folder, for `capacity` stamps (at least 1), 32 bytes each. `who` tells it apart from others and is cut off after 40
    /// bytes. Every process has a new file, so that the stamps of one that was killed stay.
    pub fn create(folder: &Path, who: &str, capacity: u32) -> Result<Self, RingError> {
        let path = folder.join(format!("{who}-{:016x}.ring", fastrand::u64(..)));
        let failed = |source| RingError::Io {
            what: "make",
            path: path.clone(),
            source,
        };
        let capacity = u64::from(capacity.max(1));
        let mut head = [0; HEAD_BYTES];
        let name = &who.as_bytes()[..who.len().min(NAME_BYTES_MAX)];
        head[..8].copy_from_slice(MAGIC);
        head[8..16].copy_from_slice(&capacity.to_le_bytes());
        head[16..24].copy_from_slice(&(name.len() as u64).to_le_bytes());
        head[24..24 + name.len()].copy_from_slice(name);
        let file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        file.write_all_at(&head, 0).map_err(failed)?;
        Ok(Self {
            path,
            file,
            capacity,
            number: 0,
        })
    }

    /// Stamps with the time of now: about two microseconds.
    pub fn stamp(&mut self, slot: u32, epoch: u64) -> Result<(), RingError> {
        let number = self.number + 1;
        let mut record = [0; RECORD_BYTES];
        record[..4].copy_from_slice(&slot.to_le_bytes());
        record[8..16].copy_from_slice(&epoch.to_le_bytes());
        record[16..24].copy_from_slice(&now_ns().to_le_bytes());
        record[24..].copy_from_slice(&number.to_le_bytes());
        let place = HEAD_BYTES as u64 + number % self.capacity * RECORD_BYTES as u64;
        self.file.write_all_at(&record, place).map_err(|source| RingError::Io {
            what: "write",
            path: self.path.clone(),
            source,
        })?;
        self.number = number;
        Ok(())
    }
}

/// Reads all rings of a folder, also of processes that are still at it.
pub fn read_all(folder: &Path) -> Result<Vec<Trace>, RingError> {
    let failed = |source| RingError::Io {
        what: "look for",
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "ring") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Trace, RingError> {
    let bytes = fs::read(path).map_err(|source| RingError::Io {
        what: "read",
        path: path.to_owned(),
        source,
    })?;
    let not = |why| RingError::NotARing {
        path: path.to_owned(),
        why,
    };
    let (head, records) = bytes.split_at_checked(HEAD_BYTES).ok_or(not("it has no head"))?;
    if !head.starts_with(MAGIC) {
        return Err(not("it begins with other bytes"));
    }
    let length = usize::try_from(number(head, 16))
        .ok()
        .filter(|length| *length <= NAME_BYTES_MAX);
    let length = length.ok_or(not("its name is longer than its head"))?;
    let who = String::from_utf8_lossy(&head[24..24 + length]).into_owned();
    // The last record may be half written while we read.
    let mut stamps: Vec<Stamp> = records.chunks_exact(RECORD_BYTES).filter_map(stamp).collect();
    stamps.sort_by_key(|stamp| stamp.number);
    let newest = stamps.last().map_or(0, |stamp| stamp.number);
    Ok(Trace {
        who,
        lost: newest - stamps.len() as u64,
        stamps,
    })
}

fn stamp(record: &[u8]) -> Option<Stamp> {
    let slot = record[..4].try_into().map(u32::from_le_bytes).ok()?;
    let stamp = Stamp {
        slot,
        epoch: number(record, 8),
        at_ns: number(record, 16),
        number: number(record, 24),
    };
    (stamp.number > 0).then_some(stamp)
}

/// The caller has checked that there are eight bytes.
fn number(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stamped_is_read_and_what_was_overwritten_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let before = now_ns();
        let mut ring = Ring::create(folder.path(), "a", 4).unwrap();
        for epoch in 1..=6 {
            ring.stamp(2, epoch).unwrap();
        }
        Ring::create(folder.path(), "b", 4).unwrap();
        let traces = read_all(folder.path()).unwrap();
        let [a, b] = traces.as_slice() else {
            panic!("{traces:?}")
        };
        assert_eq!(
            (a.who.as_str(), a.lost, b.who.as_str(), b.stamps.len()),
            ("a", 2, "b", 0)
        );
        assert_eq!(
            a.stamps.iter().map(|stamp| stamp.epoch).collect::<Vec<_>>(),
            [3, 4, 5, 6]
        );
        assert!(
            a.stamps
                .iter()
                .all(|stamp| stamp.slot == 2 && (before..=now_ns()).contains(&stamp.at_ns))
        );
        assert!(a.stamps.is_sorted_by_key(|stamp| stamp.at_ns));
    }

    #[test]
    fn what_was_lost_before_a_time_that_is_in_the_record_does_not_matter_after_it() {
        let stamp = |number| Stamp {
            slot: 0,
            epoch: 1,
            at_ns: number * 10,
            number,
        };
        let trace = Trace {
            who: "a".into(),
            stamps: vec![stamp(5), stamp(6)],
            lost: 4,
        };
        let later = trace.clone().since(55);
        assert_eq!((later.stamps.as_slice(), later.lost), (&[stamp(6)][..], 0));
        // Some of these may have been after it.
        assert_eq!(trace.since(45).lost, 4);
    }

    #[test]
    fn what_is_no_ring_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for bytes in [&b"short"[..], &[7; 200]] {
            fs::write(folder.path().join("x.ring"), bytes).unwrap();
            let error = read_all(folder.path()).unwrap_err().to_string();
            assert!(error.contains("x.ring"), "{error}");
        }
    }
}
