//! When which `db` acted as the active, written by those who acted and read by a test.
//!
//! All instances write into one file. Each activation has one record of a fixed size, made when it begins and overwritten
//! in place at every answer given as the active and at least every 5 ms in between:
//! ```text
//! epoch                    3 pid     4711 start          81230411 last          81239920
//! ```
//! Times are microseconds on CLOCK_BOOTTIME, which all processes of a machine share. A process that was stopped and
//! thawed too late goes on stamping its old record, and [`overlaps`] shows it.

use rustix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// One activation: from the promotion to the last sign of acting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interval {
    /// The epoch it was promoted at.
    pub epoch: u64,
    /// Its process.
    pub pid: u32,
    /// When it became active, microseconds since boot.
    pub start_us: u64,
    /// When it last acted as the active.
    pub last_us: u64,
}

/// Two activations that broke the rule of one active at a time and rising epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The one that began first.
    pub earlier: Interval,
    /// The one that began while the first still acted, or later but at an epoch that is not higher.
    pub later: Interval,
}

/// Why a witness file could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// It could not be read.
    #[error("failed to read the witness file `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A record is not one.
    #[error("record {number} of the witness file `{}` is not a record: `{text}`", path.display())]
    Record {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        /// What is there.
        text: String,
    },
}

/// All pairs that were active at once, or at epochs that did not rise. Empty is good.
pub fn overlaps(path: &Path) -> Result<Vec<Overlap>, WitnessError> {
    let mut intervals = read(path)?;
    intervals.sort_by_key(|interval| interval.start_us);
    let mut found = Vec::new();
    for (index, earlier) in intervals.iter().enumerate() {
        for later in &intervals[index + 1..] {
            if later.start_us <= earlier.last_us || later.epoch <= earlier.epoch {
                found.push(Overlap {
                    earlier: earlier.clone(),
                    later: later.clone(),
                });
            }
        }
    }
    Ok(found)
}

/// All activations, in the order in which they were announced.
pub fn read(path: &Path) -> Result<Vec<Interval>, WitnessError> {
    let text = std::fs::read_to_string(path).map_err(|source| WitnessError::Read {
        path: path.to_owned(),
        source,
    })?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            parse(line).ok_or_else(|| WitnessError::Record {
                path: path.to_owned(),
                number: index + 1,
                text: line.to_owned(),
            })
        })
        .collect()
}

fn parse(line: &str) -> Option<Interval> {
    let mut words = line.split_ascii_whitespace();
    let mut field = |name: &str| -> Option<u64> {
        (words.next()? == name).then_some(())?;
        words.next()?.parse().ok()
    };
    Some(Interval {
        epoch: field("epoch")?,
        pid: u32::try_from(field("pid")?).ok()?,
        start_us: field("start")?,
        last_us: field("last")?,
    })
}

/// Between two stamps of an active that has nothing to answer.
const STAMP_EVERY: Duration = Duration::from_millis(2);

/// The pen of one process.
#[derive(Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    current: Mutex<Option<Record>>,
}

#[derive(Debug)]
struct Record {
    file: File,
    offset: u64,
    interval: Interval,
}

impl Witness {
    /// Opens the file and starts the thread that stamps. The thread ends with the `Witness`.
    pub(crate) fn open(path: &Path) -> io::Result<Arc<Self>> {
        OpenOptions::new().create(true).append(true).open(path)?;
        let witness = Arc::new(Self {
            path: path.to_owned(),
            current: Mutex::new(None),
        });
        let weak = Arc::downgrade(&witness);
        std::thread::Builder::new()
            .name("witness".into())
            .spawn(move || stamp_while_alive(&weak))?;
        Ok(witness)
    }

    /// A promotion: from now on this process may act.
    pub(crate) fn begin(&self, epoch: u64) -> io::Result<()> {
        let now = boottime_us();
        let interval = Interval {
            epoch,
            pid: std::process::id(),
            start_us: now,
            last_us: now,
        };
        // Appending gives every process a place of its own; a descriptor in append mode cannot write in place, hence two.
        let text = record(&interval);
        let mut appending = OpenOptions::new().append(true).open(&self.path)?;
        appending.write_all(text.as_bytes())?;
        let offset = appending.stream_position()? - text.len() as u64;
        let file = OpenOptions::new().write(true).open(&self.path)?;
        *self.lock() = Some(Record { file, offset, interval });
        Ok(())
    }

    /// This process acts as the active right now.
    pub(crate) fn stamp(&self) {
        if let Some(record) = self.lock().as_mut() {
            record.stamp();
        }
    }

    /// A demotion: this process does not act after this.
    pub(crate) fn end(&self) {
        if let Some(mut record) = self.lock().take() {
            record.stamp();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Record>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn stamp(&mut self) {
        self.interval.last_us = boottime_us();
        // A stamp that is lost makes the proof weaker, not the service wrong.
        self.file
            .write_all_at(record(&self.interval).as_bytes(), self.offset)
            .ok();
    }
}

fn stamp_while_alive(witness: &Weak<Witness>) {
    while let Some(witness) = witness.upgrade() {
        witness.stamp();
        drop(witness);
        std::thread::sleep(STAMP_EVERY);
    }
}

/// Always of the same length, so that it can be overwritten in place.
fn record(interval: &Interval) -> String {
    let Interval {
        epoch,
        pid,
        start_us,
        last_us,
    } = interval;
    format!("epoch {epoch:>20} pid {pid:>8} start {start_us:>18} last {last_us:>18}\n")
}

pub(crate) fn boottime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1_000_000 + nanoseconds / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_one_after_the_other_do_not_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let one = Witness::open(&path).unwrap();
        let two = Witness::open(&path).unwrap();
        one.begin(1).unwrap();
        one.end();
        std::thread::sleep(Duration::from_millis(1));
        two.begin(2).unwrap();
        two.end();
        assert_eq!(overlaps(&path).unwrap(), []);
        let epochs: Vec<u64> = read(&path).unwrap().iter().map(|i| i.epoch).collect();
        assert_eq!(epochs, [1, 2]);
    }

    #[test]
    fn two_at_once_are_seen_though_nothing_was_asked_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let one = Witness::open(&path).unwrap();
        let two = Witness::open(&path).unwrap();
        one.begin(1).unwrap();
        two.begin(2).unwrap();
        let start_of_two = read(&path).unwrap()[1].start_us;
        // The first goes on stamping by itself; wait for one stamp that lies after the start of the second.
        for _ in 0..1_000 {
            if read(&path).unwrap()[0].last_us >= start_of_two {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let overlaps = overlaps(&path).unwrap();
        assert_eq!(overlaps.len(), 1);
        assert_eq!((overlaps[0].earlier.epoch, overlaps[0].later.epoch), (1, 2));
    }

    #[test]
    fn an_epoch_that_does_not_rise_counts_as_an_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let lines = [(4, 10, 20), (4, 30, 40)].map(|(epoch, start_us, last_us)| {
            record(&Interval {
                epoch,
                pid: 1,
                start_us,
                last_us,
            })
        });
        std::fs::write(&path, lines.concat()).unwrap();
        assert_eq!(overlaps(&path).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_a_record_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        std::fs::write(&path, "epoch one pid 1 start 1 last 1\n").unwrap();
        let error = overlaps(&path).unwrap_err().to_string();
        assert!(error.contains("record 1") && error.contains("epoch one"), "{error}");
    }
}
