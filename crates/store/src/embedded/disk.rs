//! State to file and back, through redb.
//!
//! A file is read and checked whole through an [`Overlay`] first, so that what redb would repair, and what it would
//! stumble over, happens in memory. Only a file that passed is opened for writing.

use super::codec::{decode_change, decode_entry, encode_change, encode_entry};
use super::medium::Medium;
use super::overlay::Overlay;
use crate::state::State;
use crate::{Change, Changes, FileError};
use model::Revision;
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    WriteTransaction,
};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Version of how the tables are laid out; a higher one is refused.
const FORMAT: u64 = 1;
/// The state is in memory anyway, so redb only needs the pages that it is changing.
const CACHE_BYTES: usize = 8 << 20;
/// How every redb file begins.
const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const HISTORY: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("history");

/// The file, open for writing unless something went wrong.
#[derive(Debug)]
pub(super) struct Disk {
    medium: Box<dyn Medium>,
    open: Option<Open>,
    /// A sync failed: what was written since the one before may be gone from the disk although it can still be read.
    doubtful: bool,
}

#[derive(Debug)]
struct Open {
    database: Database,
    mishaps: Arc<Mishaps>,
}

impl Disk {
    /// Checks what is on `medium` and opens it. On a full disk it can be read, and written as soon as there is room.
    pub(super) fn open(medium: Box<dyn Medium>) -> Result<(Self, State), FileError> {
        let mut disk = Self {
            medium,
            open: None,
            doubtful: false,
        };
        let state = disk.read()?;
        match disk.reopen() {
            Ok(()) => {}
            Err(error @ FileError::DiskFull { .. }) => {
                tracing::warn!(%error, "the store can be read but not written");
            }
            Err(error) => return Err(error),
        }
        Ok((disk, state))
    }

    /// Makes `steps` durable and forgets the history before `trim`. After an error see [`Disk::settle`].
    pub(super) fn commit(&mut self, steps: &[Arc<Changes>], trim: Option<Revision>) -> Result<(), FileError> {
        if self.open.is_none() {
            self.reopen()?;
        }
        let Some(open) = &self.open else {
            return Ok(());
        };
        let path = self.medium.path();
        let result = guarded(path, || {
            let commit = || {
                let transaction = open.database.begin_write()?;
                write_steps(&transaction, steps)?;
                if let Some(trim) = trim {
                    transaction
                        .open_table(HISTORY)?
                        .retain_in(..(trim.0, 0), |_, _| false)?;
                }
                transaction.commit()?;
                Ok(())
            };
            commit().map_err(|broken: Broken| broken.at(path))
        });
        // What redb says after a failed write is that there was one; what it was is known here.
        result.map_err(|error| match open.mishaps.first() {
            Some(source) => FileError::from_io(path, "write", source),
            None => error,
        })
    }

    /// Finds out what is in the file after a commit failed, and makes sure that it stays.
    pub(super) fn settle(&mut self) -> Result<State, FileError> {
        if let Some(open) = self.open.take() {
            self.doubtful |= open.mishaps.sync_failed.load(Ordering::Relaxed);
            // Closing after a failure may fail as well; what counts is what can be read afterwards.
            let _ = guarded(self.medium.path(), || {
                drop(open);
                Ok(())
            });
        }
        let state = self.read()?;
        if self.doubtful {
            // After a failed sync the kernel may call pages clean that never reached the disk, so syncing again would
            // prove nothing. All of it is written anew.
            self.medium.replace(&state)?;
            self.doubtful = false;
            return Ok(state);
        }
        let synced = self.medium.open()?.sync_data();
        if let Err(error) = synced {
            self.doubtful = true;
            return Err(FileError::from_io(self.medium.path(), "sync", error));
        }
        Ok(state)
    }

    fn read(&self) -> Result<State, FileError> {
        load(self.medium.open()?, self.medium.path())
    }

    fn reopen(&mut self) -> Result<(), FileError> {
        let path = self.medium.path();
        let mishaps = Arc::new(Mishaps::default());
        let backend = Watched {
            inner: self.medium.open()?,
            mishaps: Arc::clone(&mishaps),
        };
        let database = guarded(path, || {
            Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)
                .map_err(|error| Broken::from(error).at(path))
        });
        let database = database.map_err(|error| match mishaps.first() {
            Some(source) => FileError::from_io(path, "open", source),
            None => error,
        })?;
        self.open = Some(Open { database, mishaps });
        Ok(())
    }
}

/// Writes a new file with `state` in it into `backend`, which is empty.
pub(super) fn write_new(backend: Arc<dyn StorageBackend>, path: &Path, state: &State) -> Result<(), FileError> {
    let mishaps = Arc::new(Mishaps::default());
    let backend = Watched {
        inner: backend,
        mishaps: Arc::clone(&mishaps),
    };
    let written = guarded(path, || {
        let write = || {
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .create_with_backend(backend)?;
            let transaction = database.begin_write()?;
            {
                transaction.open_table(META)?.insert("format", FORMAT)?;
                let mut entries = transaction.open_table(ENTRIES)?;
                for (key, entry) in &state.entries {
                    entries.insert(key.as_str(), encode_entry(entry).as_slice())?;
                }
                let mut history = transaction.open_table(HISTORY)?;
                for step in &state.history {
                    write_history(&mut history, step)?;
                }
            }
            transaction.commit()?;
            database.close()?;
            Ok(())
        };
        write().map_err(|broken: Broken| broken.at(path))
    });
    written.map_err(|error| match mishaps.first() {
        Some(source) => FileError::from_io(path, "write", source),
        None => error,
    })
}

/// Reads all of `file` and checks it, without touching it.
pub(super) fn load(file: Arc<dyn StorageBackend>, path: &Path) -> Result<State, FileError> {
    let damaged = |what: &str| FileError::Damaged {
        path: path.into(),
        what: what.into(),
    };
    let failed = |error| FileError::from_io(path, "read", error);
    let len = file.len().map_err(failed)?;
    if len == 0 {
        return Err(damaged("the file is empty"));
    }
    let mut start = [0; MAGIC.len()];
    if len < MAGIC.len() as u64 {
        return Err(damaged("the file is cut short"));
    }
    file.read(0, &mut start).map_err(failed)?;
    if start != MAGIC {
        return Err(damaged("this is not the file of a store"));
    }
    guarded(path, || {
        let read = || {
            let database = Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(Overlay::new(file)?)?;
            read_state(&database.begin_read()?)
        };
        read().map_err(|broken: Broken| broken.at(path))
    })
}

fn write_steps(transaction: &WriteTransaction, steps: &[Arc<Changes>]) -> Result<(), Broken> {
    let mut entries = transaction.open_table(ENTRIES)?;
    let mut history = transaction.open_table(HISTORY)?;
    let last = history.last()?.map_or(1, |(place, _)| place.value().0);
    if let Some(step) = steps.first()
        && step.revision.0 != last + 1
    {
        return Err(Broken::Content(format!(
            "it is at revision {last} where {} was expected: somebody else wrote to it",
            step.revision.0 - 1
        )));
    }
    for step in steps {
        for change in &step.changes {
            match change {
                Change::Put(entry) => entries.insert(entry.key.as_str(), encode_entry(entry).as_slice())?,
                Change::Delete { key } => entries.remove(key.as_str())?,
            };
        }
        write_history(&mut history, step)?;
    }
    Ok(())
}

fn write_history(
    history: &mut redb::Table<'_, (u64, u32), &'static [u8]>,
    step: &Changes,
) -> Result<(), redb::StorageError> {
    for (index, change) in (0..).zip(&step.changes) {
        let bytes = encode_change(step.revision, index, change);
        history.insert((step.revision.0, index), bytes.as_slice())?;
    }
    Ok(())
}

fn read_state(transaction: &ReadTransaction) -> Result<State, Broken> {
    let content = |what: String| Err(Broken::Content(what));
    match transaction
        .open_table(META)?
        .get("format")?
        .map(|format| format.value())
    {
        Some(FORMAT) => {}
        Some(found) if found > FORMAT => return Err(Broken::Newer(found)),
        Some(found) => return content(format!("it has the unknown format {found}")),
        None => return content("it does not say its format".into()),
    }
    let mut entries = BTreeMap::new();
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, bytes) = row?;
        let entry = decode_entry(key.value(), bytes.value()).map_err(Broken::Content)?;
        entries.insert(key.value().to_owned(), Arc::new(entry));
    }
    let mut history: VecDeque<Changes> = VecDeque::new();
    for row in transaction.open_table(HISTORY)?.iter()? {
        let (place, bytes) = row?;
        let (revision, index) = place.value();
        let change = decode_change(Revision(revision), index, bytes.value()).map_err(Broken::Content)?;
        match history.back_mut() {
            Some(step) if step.revision.0 == revision && step.changes.len() == index as usize => {
                step.changes.push(change);
            }
            Some(step) if index != 0 || step.revision.0 + 1 != revision => {
                return content(format!("its history has a gap at revision {revision}"));
            }
            None if index != 0 => return content(format!("its history has a gap at revision {revision}")),
            _ => history.push_back(Changes {
                revision: Revision(revision),
                changes: vec![change],
            }),
        }
    }
    let state = State::new(
        entries,
        history.back().map_or(Revision(1), |step| step.revision),
        history.into_iter().map(Arc::new).collect(),
    );
    cross_check(&state).map_err(Broken::Content)?;
    Ok(state)
}

/// What stands in the entries must be what the history says was written last.
fn cross_check(state: &State) -> Result<(), String> {
    let mut last: BTreeMap<&str, &Change> = BTreeMap::new();
    for change in state.history.iter().flat_map(|step| &step.changes) {
        last.insert(change.key(), change);
    }
    for (key, change) in &last {
        let agrees = match (change, state.entries.get(*key)) {
            (Change::Put(written), Some(entry)) => *written == **entry,
            (Change::Delete { .. }, None) => true,
            _ => false,
        };
        if !agrees {
            return Err(format!(
                "the entry `{key}` is not what the history says was written last"
            ));
        }
    }
    let first = state.history.front().map_or(Revision(2), |step| step.revision);
    for (key, entry) in &state.entries {
        let known = entry.modified < first || last.contains_key(key.as_str());
        if !known || entry.create > entry.modified || entry.modified > state.revision {
            return Err(format!("the entry `{key}` has impossible revisions"));
        }
    }
    Ok(())
}

/// Why a file could not be read or written.
enum Broken {
    Redb(redb::Error),
    Content(String),
    Newer(u64),
}

impl Broken {
    fn at(self, path: &Path) -> FileError {
        let damaged = |what| FileError::Damaged {
            path: path.into(),
            what,
        };
        match self {
            Broken::Newer(found) => FileError::NewerFormat {
                path: path.into(),
                found,
                known: FORMAT,
            },
            Broken::Content(what) => damaged(what),
            Broken::Redb(redb::Error::Io(error)) => match error.kind() {
                io::ErrorKind::InvalidData => damaged(error.to_string()),
                io::ErrorKind::UnexpectedEof => damaged("the file is cut short".into()),
                _ => FileError::from_io(path, "access", error),
            },
            Broken::Redb(redb::Error::DatabaseAlreadyOpen) => FileError::InUse {
                path: path.into(),
                pid: None,
            },
            Broken::Redb(redb::Error::PreviousIo) => {
                FileError::from_io(path, "write", io::Error::other("an earlier write failed"))
            }
            // A table that is missing or of another type, a page with a wrong checksum, an unknown layout.
            Broken::Redb(error) => damaged(error.to_string()),
        }
    }
}

macro_rules! broken_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Broken {
            fn from(error: $error) -> Self {
                Broken::Redb(error.into())
            }
        })*
    };
}
broken_from!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Redb(redb::Error::Io(error))
    }
}

/// Turns a panic into an error: redb asserts what only a damaged file can violate.
fn guarded<T>(path: &Path, attempt: impl FnOnce() -> Result<T, FileError>) -> Result<T, FileError> {
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(FileError::Damaged {
            path: path.into(),
            what: format!("redb gave up on it: {text}"),
        })
    })
}

/// What went wrong below redb, which remembers only that something did.
#[derive(Debug, Default)]
struct Mishaps {
    first: Mutex<Option<io::Error>>,
    sync_failed: AtomicBool,
}

impl Mishaps {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert_with(|| copy(error));
        }
        result
    }

    fn first(&self) -> Option<io::Error> {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(copy)
    }
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// A file that notes its failures.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn StorageBackend>,
    mishaps: Arc<Mishaps>,
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.mishaps.note(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.mishaps.note(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.mishaps.note(self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let result = self.mishaps.note(self.inner.sync_data());
        if result.is_err() {
            self.mishaps.sync_failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.mishaps.note(self.inner.write(offset, data))
    }
}
