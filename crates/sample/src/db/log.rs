//! The log of `db`: a file to which records are appended, and the contents that they add up to.
//!
//! ```text
//! "USDBLOG1" | record | record | …
//! record:  magic u32 | length u32 | check u64 | operations | chain u64          (little endian)
//! ```
//! The `check` is a hash over the operations alone: a record is recognised by it wherever it lies. A record is what one `fdatasync` made durable. Its `chain` is a hash over the operations *and* the chain before it, so
//! that (position, chain) stands for everything up to there: a follower whose pair the active finds in its own log has the
//! same beginning and needs only the rest.
//!
//! When the log is opened, an unfinished record at its end is cut off: it was never acknowledged. Anything else that is
//! wrong is damage, and the log is refused rather than shortened. (Damage that hits the last record alone looks like an
//! unfinished one; a copy on another disk is what helps against disks.)

use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder cannot be made.
    #[error("failed to make the data folder `{}`", path.display())]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The file cannot be read or written.
    #[error("failed to open the log `{}`", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Another process has it open.
    #[error("the log `{}` is in use by another db; give each its own --data folder", path.display())]
    InUse {
        /// Which file.
        path: PathBuf,
    },

    /// It is not a log of ours.
    #[error("`{}` is not a log of a db; move it away", path.display())]
    NotALog {
        /// Which file.
        path: PathBuf,
    },

    /// A record in the middle does not fit.
    #[error("the log `{}` is damaged at byte {position}, and there are records after it; keep a copy, then empty the folder and let this db follow the active", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        position: u64,
    },
}

/// Why nothing was added to a log.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Not written, and the log is as it was (a full disk, say).
    Refused(io::Error),
    /// Nobody knows what is on the disk.
    Unknown(io::Error),
}

/// A change that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Somebody became active.
    Epoch(u64),
    /// The counter has this value.
    Counter(u64),
    /// The key has this value.
    Put(String, Bytes),
    /// The key is gone.
    Delete(String),
}

/// What the records add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) entries: BTreeMap<String, Bytes>,
    pub(crate) counter: u64,
    /// The highest epoch seen.
    pub(crate) epoch: u64,
}

impl Contents {
    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Epoch(epoch) => self.epoch = self.epoch.max(epoch),
            Op::Counter(counter) => self.counter = counter,
            Op::Put(key, value) => {
                self.entries.insert(key, value);
            }
            Op::Delete(key) => {
                self.entries.remove(&key);
            }
        }
    }

    /// The shortest way to the same contents.
    fn to_ops(&self) -> impl Iterator<Item = Op> {
        let scalars = [Op::Epoch(self.epoch), Op::Counter(self.counter)];
        let entries = self.entries.iter();
        scalars
            .into_iter()
            .chain(entries.map(|(key, value)| Op::Put(key.clone(), value.clone())))
    }
}

/// A log that is open for appending.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Arc<File>,
    end: u64,
    chain: u64,
}

/// While it lives, the folder is ours alone; the kernel ends it with the process, however that dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    fn take(dir: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

const HEADER: &[u8; 8] = b"USDBLOG1";
const MAGIC: u32 = 0x5d_b1_06_01;
/// Magic, length and check, before the operations.
const HEAD: usize = 16;
/// The chain, after them.
const TAIL: usize = 8;
const FRAME: u64 = (HEAD + TAIL) as u64;
/// A batch is closed at a quarter of this, and the operation that fills it is far smaller than the rest.
const RECORD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A batch with so many bytes of keys and values is written.
pub(crate) const BATCH_BYTES_FULL: usize = RECORD_BYTES_MAX as usize / 4;
/// A shorter log is not worth writing anew.
const COMPACT_FROM_BYTES: u64 = 1024 * 1024;
/// Written anew when it is so many times longer than what it adds up to.
const COMPACT_RATIO: u64 = 4;

/// The file in the data folder.
pub(crate) fn path_in(dir: &Path) -> PathBuf {
    dir.join("log")
}

impl Log {
    /// Opens the log of a folder, or makes both; cuts off an unfinished record; writes a long log of few entries anew.
    pub(crate) fn open(dir: &Path) -> Result<(Lock, Self, Contents), OpenError> {
        std::fs::create_dir_all(dir).map_err(|source| OpenError::Folder {
            path: dir.to_owned(),
            source,
        })?;
        let path = path_in(dir);
        let failed = |source| OpenError::File {
            path: path.clone(),
            source,
        };
        let Some(lock) = Lock::take(dir).map_err(failed)? else {
            return Err(OpenError::InUse { path });
        };
        let fresh = !path.try_exists().map_err(failed)?;
        if fresh {
            let mut log = Self::create(&path).map_err(failed)?;
            log.sync().map_err(failed)?;
            sync_folder(dir).map_err(failed)?;
            return Ok((lock, log, Contents::default()));
        }
        let (log, contents) = Self::read(&path)?;
        if log.end < COMPACT_FROM_BYTES {
            return Ok((lock, log, contents));
        }
        let (log, contents) = log.compacted(contents).map_err(failed)?;
        Ok((lock, log, contents))
    }

    /// An empty log at `path`, in place of what is there.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        file.write_all_at(HEADER, 0)?;
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            end: HEADER.len() as u64,
            chain: 0,
        })
    }

    fn read(path: &Path) -> Result<(Self, Contents), OpenError> {
        let failed = |source| OpenError::File {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let mut contents = Contents::default();
        let scanned = scan(&file, &mut contents).map_err(failed)?;
        let (end, chain) = match scanned {
            Scanned::Whole { end, chain } => (end, chain),
            Scanned::Unfinished { end, chain } => {
                // A log that was killed before its header was whole has no records either.
                if end < HEADER.len() as u64 {
                    file.write_all_at(HEADER, 0).map_err(failed)?;
                }
                let end = end.max(HEADER.len() as u64);
                file.set_len(end).map_err(failed)?;
                file.sync_all().map_err(failed)?;
                (end, chain)
            }
            Scanned::NotALog => return Err(OpenError::NotALog { path: path.into() }),
            Scanned::Damaged { position } => {
                return Err(OpenError::Damaged {
                    path: path.into(),
                    position,
                });
            }
        };
        let log = Self {
            path: path.to_owned(),
            file: Arc::new(file),
            end,
            chain,
        };
        Ok((log, contents))
    }

    fn compacted(self, contents: Contents) -> io::Result<(Self, Contents)> {
        let short: u64 = contents.to_ops().map(|op| encoded_len(&op)).sum();
        if self.end / COMPACT_RATIO < short {
            return Ok((self, contents));
        }
        let target = self.path.clone();
        let mut anew = Self::create(&beside(&target))?;
        let mut batch = Vec::new();
        for op in contents.to_ops() {
            encode(&op, &mut batch);
            if batch.len() > BATCH_BYTES_FULL {
                anew.write(&std::mem::take(&mut batch))?;
            }
        }
        anew.write(&batch)?;
        anew.install(&target)?;
        Ok((anew, contents))
    }

    /// Puts this log, made beside it, in the place of the one at `target`.
    pub(crate) fn install(&mut self, target: &Path) -> io::Result<()> {
        self.sync()?;
        std::fs::rename(&self.path, target)?;
        self.path = target.to_owned();
        sync_folder(target.parent().unwrap_or(Path::new(".")))
    }

    /// Adds operations as one record, durably.
    pub(crate) fn append(&mut self, ops: &[Op]) -> Result<(), AppendError> {
        let mut payload = Vec::new();
        for op in ops {
            encode(op, &mut payload);
        }
        let before = (self.end, self.chain);
        let written = self.write(&payload);
        self.settle(before, written)
    }

    /// Adds whole records that come from another log, durably. `None`: they do not continue this one.
    pub(crate) fn append_records(&mut self, records: &[u8]) -> Result<Option<Vec<Op>>, AppendError> {
        let Some((ops, chain)) = decode_records(records, self.chain) else {
            return Ok(None);
        };
        let before = (self.end, self.chain);
        let written = self.file.write_all_at(records, self.end);
        if written.is_ok() {
            self.end += records.len() as u64;
            self.chain = chain;
        }
        self.settle(before, written)?;
        Ok(Some(ops))
    }

    /// Like `append_records`, but the disk may take its time: for a log that is not installed yet.
    pub(crate) fn collect_records(&mut self, records: &[u8]) -> io::Result<Option<Vec<Op>>> {
        let Some((ops, chain)) = decode_records(records, self.chain) else {
            return Ok(None);
        };
        self.file.write_all_at(records, self.end)?;
        self.end += records.len() as u64;
        self.chain = chain;
        Ok(Some(ops))
    }

    fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let chain = chain(self.chain, payload);
        let mut record = Vec::with_capacity(payload.len() + FRAME as usize);
        record.extend_from_slice(&MAGIC.to_le_bytes());
        record.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        record.extend_from_slice(&check(payload).to_le_bytes());
        record.extend_from_slice(payload);
        record.extend_from_slice(&chain.to_le_bytes());
        self.file.write_all_at(&record, self.end)?;
        self.end += record.len() as u64;
        self.chain = chain;
        Ok(())
    }

    /// Makes a write durable, or undoes it. After a failed sync the kernel may have dropped the pages and a second one may
    /// succeed without them: there is no way to find out but to read the disk again.
    fn settle(&mut self, before: (u64, u64), written: io::Result<()>) -> Result<(), AppendError> {
        let Err(error) = written else {
            return self.sync().map_err(AppendError::Unknown);
        };
        (self.end, self.chain) = before;
        match self.file.set_len(self.end) {
            Ok(()) => Err(AppendError::Refused(error)),
            Err(_) => Err(AppendError::Unknown(error)),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn chain(&self) -> u64 {
        self.chain
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Whether a log with this chain at this position is the beginning of this one.
    pub(crate) fn begins_with(&self, position: u64, chain: u64) -> io::Result<bool> {
        let first = HEADER.len() as u64;
        if position == first {
            return Ok(chain == 0);
        }
        if position < first + FRAME || position > self.end {
            return Ok(false);
        }
        let mut here = [0; 8];
        self.file.read_exact_at(&mut here, position - 8)?;
        Ok(u64::from_le_bytes(here) == chain)
    }
}

/// Where a log's records begin.
pub(crate) const FIRST: u64 = HEADER.len() as u64;

/// Where a log is written that shall replace the one at `path`.
pub(crate) fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// How much of `bytes` is whole records. `None`: it cannot become a record.
pub(crate) fn whole_records(bytes: &[u8]) -> Option<usize> {
    let mut whole = 0;
    while let Some(head) = bytes.get(whole..whole + HEAD) {
        let (magic, length) = (word(head, 0), u64::from(word(head, 4)));
        if magic != MAGIC || length + FRAME > RECORD_BYTES_MAX {
            return None;
        }
        let next = whole + (length + FRAME) as usize;
        if next > bytes.len() {
            break;
        }
        whole = next;
    }
    Some(whole)
}

fn decode_records(records: &[u8], mut chained: u64) -> Option<(Vec<Op>, u64)> {
    let mut ops = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let payload = checked_payload(rest)?;
        let tail = rest.get(HEAD + payload.len()..)?.get(..TAIL)?;
        chained = chain(chained, payload);
        if tail != chained.to_le_bytes() {
            return None;
        }
        decode(payload, &mut ops)?;
        rest = &rest[HEAD + payload.len() + TAIL..];
    }
    Some((ops, chained))
}

/// The operations of the record that `bytes` begin with, if it is one.
fn checked_payload(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.get(..HEAD)?;
    if word(head, 0) != MAGIC {
        return None;
    }
    let payload = bytes.get(HEAD..)?.get(..word(head, 4) as usize)?;
    (head[8..] == check(payload).to_le_bytes()).then_some(payload)
}

enum Scanned {
    Whole { end: u64, chain: u64 },
    Unfinished { end: u64, chain: u64 },
    NotALog,
    Damaged { position: u64 },
}

fn scan(file: &File, contents: &mut Contents) -> io::Result<Scanned> {
    let mut reader = io::BufReader::with_capacity(1024 * 1024, file);
    let mut header = Vec::new();
    reader.by_ref().take(FIRST).read_to_end(&mut header)?;
    if !HEADER.starts_with(&header) {
        return Ok(Scanned::NotALog);
    }
    if header.len() < HEADER.len() {
        return Ok(Scanned::Unfinished { end: 0, chain: 0 });
    }
    let (mut end, mut chained) = (FIRST, 0);
    loop {
        let Some((record, whole)) = read_record(&mut reader)? else {
            return Ok(Scanned::Whole { end, chain: chained });
        };
        let good = whole.then(|| decode_records(&record, chained)).flatten();
        let Some((ops, chain)) = good else {
            return unfinished_or_damaged(file, end, chained);
        };
        ops.into_iter().for_each(|op| contents.apply(op));
        end += record.len() as u64;
        chained = chain;
    }
}

/// The next record and whether it is whole; `None` at the end of the file.
fn read_record(reader: &mut impl Read) -> io::Result<Option<(Vec<u8>, bool)>> {
    let mut record = Vec::new();
    reader.by_ref().take(HEAD as u64).read_to_end(&mut record)?;
    if record.len() < HEAD {
        return Ok((!record.is_empty()).then_some((record, false)));
    }
    let length = u64::from(word(&record, 4));
    if word(&record, 0) != MAGIC || length + FRAME > RECORD_BYTES_MAX {
        return Ok(Some((record, false)));
    }
    reader.take(length + TAIL as u64).read_to_end(&mut record)?;
    let whole = record.len() as u64 == length + FRAME;
    Ok(Some((record, whole)))
}

/// A record that was never finished is the last thing in the file; behind damage there are records that were.
fn unfinished_or_damaged(file: &File, end: u64, chained: u64) -> io::Result<Scanned> {
    let length = file.metadata()?.len();
    let damaged = Scanned::Damaged { position: end };
    if length - end > RECORD_BYTES_MAX {
        return Ok(damaged);
    }
    let mut rest = vec![0; (length - end) as usize];
    file.read_exact_at(&mut rest, end)?;
    let magic = MAGIC.to_le_bytes();
    let mut later = (1..rest.len()).filter(|at| rest[*at..].starts_with(&magic));
    if later.any(|at| checked_payload(&rest[at..]).is_some()) {
        return Ok(damaged);
    }
    Ok(Scanned::Unfinished { end, chain: chained })
}

fn check(payload: &[u8]) -> u64 {
    hash(0xcbf2_9ce4_8422_2325, payload)
}

fn chain(before: u64, payload: &[u8]) -> u64 {
    hash(before ^ 0x9e37_79b9_7f4a_7c15, payload)
}

/// FNV-1a over the length and the bytes. Against accidents, not against forgers.
fn hash(start: u64, payload: &[u8]) -> u64 {
    let length = (payload.len() as u64).to_le_bytes();
    length.iter().chain(payload).fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const EPOCH: u8 = 1;
const COUNTER: u8 = 2;
const PUT: u8 = 3;
const DELETE: u8 = 4;

fn encode(op: &Op, out: &mut Vec<u8>) {
    let (kind, key, value): (u8, &[u8], &[u8]) = match op {
        Op::Epoch(epoch) => (EPOCH, &epoch.to_le_bytes(), &[]),
        Op::Counter(counter) => (COUNTER, &counter.to_le_bytes(), &[]),
        Op::Put(key, value) => (PUT, key.as_bytes(), value),
        Op::Delete(key) => (DELETE, key.as_bytes(), &[]),
    };
    out.push(kind);
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

fn encoded_len(op: &Op) -> u64 {
    let content = match op {
        Op::Epoch(_) | Op::Counter(_) => 8,
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    };
    9 + content as u64
}

fn decode(mut payload: &[u8], ops: &mut Vec<Op>) -> Option<()> {
    while !payload.is_empty() {
        let head = payload.get(..9)?;
        let (key_len, value_len) = (word(head, 1) as usize, word(head, 5) as usize);
        let key = payload.get(9..9 + key_len)?;
        let value = payload.get(9 + key_len..9 + key_len + value_len)?;
        let number = || Some(u64::from_le_bytes(key.try_into().ok()?));
        let text = || String::from_utf8(key.to_vec()).ok();
        ops.push(match head[0] {
            EPOCH => Op::Epoch(number()?),
            COUNTER => Op::Counter(number()?),
            PUT => Op::Put(text()?, Bytes::copy_from_slice(value)),
            DELETE => Op::Delete(text()?),
            _ => return None,
        });
        payload = &payload[9 + key_len + value_len..];
    }
    Some(())
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
