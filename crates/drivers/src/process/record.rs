//! The note about a running instance that lets the next agent adopt it: `running/ID.json`, say.
//!
//! It is replaced by rename, so it is whole or absent whenever the agent dies. It is not fsynced: after a crash of the
//! machine nothing of it is true any more, which the boot id tells.

use super::scan::{MARKER, Root};
use model::{InstanceId, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Version of the record; another one is not understood.
const FORMAT: u32 = 1;

/// What is known of a running instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the record.
    pub(super) format: u32,
    /// Whose it is.
    pub cluster_id: String,
    /// The instance.
    pub instance: InstanceId,
    /// Which start of it.
    pub run: RunId,
    /// Its main process, session and group.
    pub pid: u32,
    /// Clock ticks from boot to its start.
    pub start_ticks: u64,
    /// Of the machine, when it started.
    pub boot_id: String,
    /// Its cgroup, if it has one.
    pub cgroup: Option<PathBuf>,
    /// When it was started, on the clock of the machine (since boot).
    pub started: Timestamp,
    /// What the agent wants to find again.
    pub memo: serde_json::Value,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there, or not readable.
    #[error("cannot read the record `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is no record.
    #[error("the record `{}` is damaged: {source}; what it described is stopped as a stray", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// It was written by another version.
    #[error("the record `{}` has format {found}, this program understands {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It belongs to another cluster.
    #[error("the record `{}` belongs to the cluster with id `{found}`", path.display())]
    Cluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
    },
}

/// More than a record is long: one block of most file systems.
const ROOM: usize = 4096;

impl Record {
    pub(crate) fn new(cluster_id: &str, instance: InstanceId, run: RunId, boot_id: &str) -> Self {
        Self {
            format: FORMAT,
            cluster_id: cluster_id.into(),
            instance,
            run,
            pid: 0,
            start_ticks: 0,
            boot_id: boot_id.into(),
            cgroup: None,
            started: Timestamp(0),
            memo: serde_json::Value::Null,
        }
    }

    /// Reads a record of the cluster `cluster_id`.
    pub fn read(path: &Path, cluster_id: &str) -> Result<Self, ReadError> {
        let owned = || path.to_path_buf();
        let bytes = fs::read(path).map_err(|source| ReadError::Read { path: owned(), source })?;
        let damaged = |source| ReadError::Damaged { path: owned(), source };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(damaged)?;
        if let Some(found) = value
            .get("format")
            .and_then(serde_json::Value::as_u64)
            .filter(|format| *format != u64::from(FORMAT))
        {
            return Err(ReadError::Format {
                path: owned(),
                found: u32::try_from(found).unwrap_or(u32::MAX),
            });
        }
        let record: Record = serde_json::from_value(value).map_err(damaged)?;
        if record.cluster_id != cluster_id {
            return Err(ReadError::Cluster {
                path: owned(),
                found: record.cluster_id,
            });
        }
        Ok(record)
    }

    /// Returns how long it is, in bytes.
    pub(crate) fn write(&self, path: &Path) -> io::Result<u64> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let new = folder.join(format!(".{}.new", self.instance));
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        let written = fs::create_dir_all(folder)
            .and_then(|()| write_private(&new, &bytes))
            .and_then(|()| fs::rename(&new, path));
        if let Err(error) = written {
            let _ = fs::remove_file(&new);
            let full = error.kind() == io::ErrorKind::StorageFull;
            // Where there is no record yet, its room may have been kept.
            let noted = || {
                overwrite(path, &bytes).or_else(|_| fs::rename(room(path), path).and_then(|()| overwrite(path, &bytes)))
            };
            if !full || noted().is_err() {
                return Err(error);
            }
        }
        Ok(bytes.len() as u64)
    }

    /// How its processes are known.
    pub(crate) fn root(&self) -> Root {
        let marker = marker(&self.cluster_id, &self.instance, self.run);
        Root {
            pid: self.pid,
            start: self.start_ticks,
            marker: marker.into(),
        }
    }
}

/// Keeps room for the record of an instance that is to be started later, so that it can be on a full disk.
pub fn keep_room(path: &Path) -> io::Result<()> {
    if path.exists() || room(path).exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    write_private(&room(path), &[b' '; ROOM])
}

/// Takes away the record of an instance that has ended; its room is kept.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::rename(path, room(path))
}

fn room(path: &Path) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.room"))
}

/// The owner's alone: the memo tells what the process was started from, secrets in its environment included.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .write_all(bytes)
}

/// Writes into the blocks that a file has already: a full disk has no room for another file. The process that it tells of is lost with
/// the power, so that half of it is never read after that.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)
}

/// What [`MARKER`] says in the processes of a run.
pub(crate) fn marker(cluster_id: &str, instance: &InstanceId, run: RunId) -> String {
    format!("{cluster_id}/{instance}/{run}")
}

/// The marker as it stands in the environment.
pub(crate) fn marker_entry(cluster_id: &str, instance: &InstanceId, run: RunId) -> String {
    format!("{MARKER}={}", marker(cluster_id, instance, run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_anew_needs_no_room_on_a_full_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-1.json");
        let mut record = Record::new("c1", "web-1".parse().unwrap(), RunId(3), "boot");
        record.memo = serde_json::json!({"epoch": 7, "followed": 6});
        record.write(&path).unwrap();
        record.memo = serde_json::json!({"epoch": 8});
        overwrite(&path, &serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(Record::read(&path, "c1").unwrap(), record);
        let missing = overwrite(&dir.path().join("web-2.json"), b"{}").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound, "none is begun");
    }

    #[test]
    fn room_is_kept_for_the_first_record_and_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("web-1.json");
        keep_room(&path).unwrap();
        assert!(Record::read(&path, "c1").is_err(), "it is none");
        let record = Record::new("c1", "web-1".parse().unwrap(), RunId(3), "boot");
        fs::rename(room(&path), &path).unwrap();
        overwrite(&path, &serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(Record::read(&path, "c1").unwrap(), record);
        remove(&path).unwrap();
        assert!(!path.exists() && room(&path).exists());
    }

    #[test]
    fn a_record_is_read_back_and_what_is_none_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/web-1.json");
        let mut record = Record::new("c1", "web-1".parse().unwrap(), RunId(3), "boot");
        record.memo = serde_json::json!({"epoch": 7});
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path, "c1").unwrap(), record);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing else is left behind"
        );

        let error = |text: &str| {
            fs::write(&path, text).unwrap();
            Record::read(&path, "c1").unwrap_err()
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(matches!(error(&text.replace("\"c1\"", "\"c2\"")), ReadError::Cluster { found, .. } if found == "c2"));
        assert!(matches!(
            error(&text.replace("\"format\":1", "\"format\":2")),
            ReadError::Format { found: 2, .. }
        ));
        assert!(matches!(error(&text[..text.len() / 2]), ReadError::Damaged { .. }));
        assert!(matches!(error("{}"), ReadError::Damaged { .. }));
        assert!(matches!(
            Record::read(&dir.path().join("none"), "c1"),
            Err(ReadError::Read { .. })
        ));
    }
}
