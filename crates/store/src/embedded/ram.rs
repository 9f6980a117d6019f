//! A disk in memory for tests: remembers every write, loses what was not synced, and fails when told.

use super::disk::write_new;
use super::medium::Medium;
use crate::FileError;
use crate::state::State;
use redb::StorageBackend;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// `ENOSPC` and `EIO`, as the kernel numbers them.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Ram(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    /// What programs see: the page cache.
    pub(super) seen: Vec<u8>,
    /// What is left after a power cut.
    platter: Vec<u8>,
    /// What the next sync will put on the platter.
    dirty: Vec<Step>,
    /// All that happened, if it is recorded.
    pub(super) log: Option<Vec<Step>>,
    /// Writes and syncs so far.
    pub(super) operations: u32,
    pub(super) fault: Option<Fault>,
    /// No file grows beyond this.
    pub(super) room: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Write {
        offset: u64,
        data: Vec<u8>,
    },
    SetLen(u64),
    Sync,
    /// The test submitted transactions up to this revision.
    Submitted(u64),
    /// The store acknowledged transactions up to this revision.
    Acknowledged(u64),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// The operation with this number fails.
    Once(u32),
    /// All operations from this number on fail, and so does replacing the file.
    From(u32),
}

impl Ram {
    /// A disk with a new store on it.
    pub(super) fn with_store() -> Self {
        let ram = Self::default();
        ram.replace(&State::default()).unwrap();
        ram
    }

    pub(super) fn with_content(content: Vec<u8>) -> Self {
        let ram = Self::default();
        ram.lock().platter = content.clone();
        ram.lock().seen = content;
        ram
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(super) fn mark(&self, step: Step) {
        if let Some(log) = &mut self.lock().log {
            log.push(step);
        }
    }

    /// What is on the disk after a power cut, with the page cache gone.
    pub(super) fn after_power_cut(&self) -> Self {
        Self::with_content(self.lock().platter.clone())
    }
}

impl Inner {
    /// Counts an operation, which may have to fail.
    fn operation(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some(Fault::Once(at)) if at == number => Err(io::Error::from_raw_os_error(EIO)),
            Some(Fault::From(at)) if at <= number => Err(io::Error::from_raw_os_error(EIO)),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, step: Step) {
        step.apply_to(&mut self.seen);
        if let Some(log) = &mut self.log {
            log.push(step.clone());
        }
        self.dirty.push(step);
    }
}

impl Step {
    pub(super) fn apply_to(&self, content: &mut Vec<u8>) {
        match self {
            Step::Write { offset, data } => {
                let start = *offset as usize;
                content.resize(content.len().max(start + data.len()), 0);
                content[start..start + data.len()].copy_from_slice(data);
            }
            Step::SetLen(len) => content.resize(*len as usize, 0),
            Step::Sync | Step::Submitted(_) | Step::Acknowledged(_) => {}
        }
    }
}

impl Medium for Ram {
    fn path(&self) -> &Path {
        Path::new("ram")
    }

    fn open(&self) -> Result<Arc<dyn StorageBackend>, FileError> {
        Ok(Arc::new(self.clone()))
    }

    fn replace(&self, state: &State) -> Result<(), FileError> {
        let new = Ram::default();
        let room = self.lock().room;
        new.lock().room = room;
        write_new(Arc::new(new.clone()), self.path(), state)?;
        let written = std::mem::take(&mut new.lock().seen);
        let mut inner = self.lock();
        inner
            .operation()
            .map_err(|error| FileError::from_io(self.path(), "write", error))?;
        inner.seen = written;
        inner.platter = inner.seen.clone();
        inner.dirty.clear();
        Ok(())
    }
}

impl StorageBackend for Ram {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.lock();
        let start = offset as usize;
        let content = inner
            .seen
            .get(start..start + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(content);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operation()?;
        inner.apply(Step::SetLen(len));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.operation()?;
        // A sparse file grows by name only; the room is missed when its pages are written, as on a real disk.
        if inner.room.is_some_and(|room| offset + data.len() as u64 > room) {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        inner.apply(Step::Write {
            offset,
            data: data.to_vec(),
        });
        Ok(())
    }

    /// A sync that fails loses what it should have written, and the next one does not know: as Linux does.
    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.lock();
        let result = inner.operation();
        let dirty = std::mem::take(&mut inner.dirty);
        result?;
        let Inner { platter, log, .. } = &mut *inner;
        dirty.iter().for_each(|step| step.apply_to(platter));
        if let Some(log) = log {
            log.push(Step::Sync);
        }
        Ok(())
    }
}
