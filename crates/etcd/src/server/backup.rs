//! Copies of the whole store in a file, and what proves that they are whole.
//!
//! A backup is two files: `FILE`, as `etcdctl snapshot save` makes it, and `FILE.json`, which says what it is. The description
//! is in place before the copy gets its name, so a file that has its name is whole and described.

use super::config::beside;
use crate::client::{Client, Status};
use model::Revision;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWrite;

/// Version of the description; another one is not understood.
const FORMAT: u32 = 1;
/// etcd ends a snapshot with the SHA-256 of all before.
const TRAILER_BYTES: u64 = 32;
const CHUNK_BYTES: usize = 256 * 1024;

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    format: u32,
    /// SHA-256 of the file, in hexadecimal digits.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
    /// Id of the cluster, in hexadecimal digits, as etcd's own tools show it.
    pub cluster: String,
    /// The revision that was current before it was made: it has at least this one.
    pub revision: u64,
    /// The revision that was current after: it has none beyond.
    pub revision_max: u64,
    /// Of etcd.
    pub version: String,
    /// When, in seconds since 1970.
    pub taken: u64,
    /// What the caller wants to find again: its generation, say.
    pub meta: serde_json::Value,
}

/// Why a backup could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// etcd did not give the copy.
    #[error("failed to copy the store from `{endpoint}`: {source}")]
    Copy {
        /// The member.
        endpoint: String,
        /// What it said.
        source: crate::Error,
    },
    /// A backup is never overwritten.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The disk.
    #[error("failed to write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What arrived is not what was sent.
    #[error("the copy did not arrive whole: {0}")]
    Damaged(#[from] VerifyError),
}

/// What is wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file of the two is not there or not readable.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The description is none, or one of another version.
    #[error("`{}` does not describe a backup: {why}", path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Something was cut off, or added.
    #[error("`{}` has {found} bytes, its description says {expected}", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// As described.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// Something was changed.
    #[error("`{}` was changed since it was made: its SHA-256 is {found}, its description says {expected}", path.display())]
    Sha256 {
        /// The file.
        path: PathBuf,
        /// As described.
        expected: String,
        /// As it is.
        found: String,
    },
    /// It never was one.
    #[error("`{}` is not a whole snapshot of etcd: it does not end with the SHA-256 of its content", path.display())]
    Trailer {
        /// The file.
        path: PathBuf,
    },
}

impl BackupError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            BackupError::Copy { source, .. } => source.hint(),
            BackupError::Exists { .. } => Some("choose another name: backups are not overwritten"),
            BackupError::Write { .. } => {
                Some("the folder must exist, belong to this user and have room for the whole store")
            }
            BackupError::Damaged(_) => Some("try again; if it stays, take the copy from another member"),
        }
    }
}

impl VerifyError {
    /// What can be done about it.
    pub fn hint(&self) -> &'static str {
        match self {
            VerifyError::Read { .. } => "a backup is two files, FILE and FILE.json: both are needed",
            VerifyError::Description { .. } => "use the program that made it, or a newer one",
            _ => "use another backup: this one is damaged",
        }
    }
}

/// Makes a backup from the member at `endpoint`: whole and on the disk when this returns.
pub async fn snapshot(
    client: &Client,
    endpoint: &str,
    path: &Path,
    meta: serde_json::Value,
) -> Result<Description, BackupError> {
    if path.exists() {
        return Err(BackupError::Exists { path: path.into() });
    }
    let admin = client.admin();
    let copy = |source| BackupError::Copy {
        endpoint: endpoint.into(),
        source,
    };
    let unfinished = Unfinished::new(path)?;
    let before = admin.status(endpoint).await.map_err(copy)?;
    let mut writer = Hashing::new(tokio::fs::File::from_std(unfinished.file()?));
    let bytes = admin.snapshot(endpoint, &mut writer).await.map_err(copy)?;
    let after = admin.status(endpoint).await.map_err(copy)?;
    let description = describe(&before, after.revision, bytes, writer.digest(), meta);
    let path = path.to_path_buf();
    let finished = tokio::task::spawn_blocking(move || unfinished.finish(&path, description)).await;
    finished.unwrap_or_else(|broken| {
        Err(BackupError::Write {
            path: PathBuf::new(),
            source: io::Error::other(broken),
        })
    })
}

fn describe(before: &Status, after: Revision, bytes: u64, sha256: String, meta: serde_json::Value) -> Description {
    Description {
        format: FORMAT,
        sha256,
        bytes,
        cluster: format!("{:x}", before.cluster),
        revision: before.revision.0,
        revision_max: after.0,
        version: before.version.clone(),
        taken: super::seconds_since_1970(),
        meta,
    }
}

/// Reads a backup whole, and tells what it is if it is undamaged.
pub fn verify(path: &Path) -> Result<Description, VerifyError> {
    let description = read_description(&description_of(path))?;
    let sum = check(path)?;
    if sum.bytes != description.bytes {
        return Err(VerifyError::Length {
            path: path.into(),
            expected: description.bytes,
            found: sum.bytes,
        });
    }
    if sum.sha256 != description.sha256 {
        return Err(VerifyError::Sha256 {
            path: path.into(),
            expected: description.sha256,
            found: sum.sha256,
        });
    }
    if !sum.trailer_fits {
        return Err(VerifyError::Trailer { path: path.into() });
    }
    Ok(description)
}

fn read_description(path: &Path) -> Result<Description, VerifyError> {
    let text = fs::read(path).map_err(|source| VerifyError::Read {
        path: path.into(),
        source,
    })?;
    let wrong = |why| VerifyError::Description { path: path.into(), why };
    let description: Description = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if description.format != FORMAT {
        return Err(wrong(format!(
            "it has format {}, this program understands {FORMAT}",
            description.format
        )));
    }
    Ok(description)
}

fn description_of(path: &Path) -> PathBuf {
    beside(path, "json")
}

struct Sum {
    bytes: u64,
    sha256: String,
    /// Whether the last 32 bytes are the SHA-256 of those before.
    trailer_fits: bool,
}

fn check(path: &Path) -> Result<Sum, VerifyError> {
    let read = |source| VerifyError::Read {
        path: path.into(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let bytes = file.metadata().map_err(read)?.len();
    let content = bytes.saturating_sub(TRAILER_BYTES);
    let mut sum = Context::new(&SHA256);
    hash(&mut Read::by_ref(&mut file).take(content), &mut sum).map_err(read)?;
    let of_content = sum.clone().finish();
    let mut trailer = Vec::new();
    file.read_to_end(&mut trailer).map_err(read)?;
    sum.update(&trailer);
    Ok(Sum {
        bytes,
        sha256: hex(sum.finish().as_ref()),
        trailer_fits: trailer == of_content.as_ref(),
    })
}

fn hash(from: &mut impl Read, into: &mut Context) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(()),
            n => into.update(&chunk[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// A copy under way, that leaves nothing behind unless it is finished.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn new(target: &Path) -> Result<Self, BackupError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let path = beside(target, &format!("{}.unfinished", since.as_nanos()));
        Ok(Self { path })
    }

    fn file(&self) -> Result<File, BackupError> {
        use std::os::unix::fs::OpenOptionsExt;
        // What is in the store is for its owner only.
        let opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&self.path);
        opened.map_err(failed(&self.path))
    }

    fn finish(self, path: &Path, description: Description) -> Result<Description, BackupError> {
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(failed(&self.path))?;
        // What was written is read back: the sum of what came through the network is no proof of what is on the disk.
        let sum = check(&self.path)?;
        if !sum.trailer_fits || sum.sha256 != description.sha256 {
            return Err(VerifyError::Trailer { path: path.into() }.into());
        }
        let text = serde_json::to_vec_pretty(&description).map_err(|error| failed(path)(error.into()))?;
        let told = description_of(path);
        write_whole(&told, &text).map_err(failed(&told))?;
        // Not `rename`, which would overwrite another one made meanwhile.
        fs::hard_link(&self.path, path).map_err(failed(path))?;
        sync_folder_of(path).map_err(failed(path))?;
        Ok(description)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = beside(path, "new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder_of(path)
}

/// A name is on the disk when its folder is.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn failed(path: &Path) -> impl Fn(io::Error) -> BackupError + '_ {
    move |source| BackupError::Write {
        path: path.into(),
        source,
    }
}

/// Sums up what passes through.
struct Hashing {
    file: tokio::fs::File,
    sum: Context,
}

impl Hashing {
    fn new(file: tokio::fs::File) -> Self {
        Self {
            file,
            sum: Context::new(&SHA256),
        }
    }

    fn digest(self) -> String {
        hex(self.sum.finish().as_ref())
    }
}

impl AsyncWrite for Hashing {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = task::ready!(Pin::new(&mut self.file).poll_write(context, bytes))?;
        self.sum.update(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_damage_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        let content = vec![7_u8; 1_000_000];
        let mut whole = content.clone();
        whole.extend(ring::digest::digest(&SHA256, &content).as_ref());
        let put = |bytes: &[u8], described: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let description = Description {
                format: FORMAT,
                sha256: hex(ring::digest::digest(&SHA256, described).as_ref()),
                bytes: described.len() as u64,
                cluster: "c".into(),
                revision: 1,
                revision_max: 2,
                version: "3.4.23".into(),
                taken: 0,
                meta: serde_json::json!({"generation": 3}),
            };
            fs::write(description_of(&path), serde_json::to_vec(&description).unwrap()).unwrap();
        };
        put(&whole, &whole);
        assert_eq!(verify(&path).unwrap().meta["generation"], 3);

        put(&whole[..whole.len() - 1], &whole);
        assert!(matches!(
            verify(&path),
            Err(VerifyError::Length { found: 1_000_031, .. })
        ));
        let mut flipped = whole.clone();
        flipped[500_000] ^= 1;
        put(&flipped, &whole);
        assert!(matches!(verify(&path), Err(VerifyError::Sha256 { .. })));
        put(&flipped, &flipped);
        assert!(
            matches!(verify(&path), Err(VerifyError::Trailer { .. })),
            "described after the damage"
        );
        put(b"short", b"short");
        assert!(matches!(verify(&path), Err(VerifyError::Trailer { .. })));

        put(&whole, &whole);
        fs::write(description_of(&path), "{}").unwrap();
        assert!(matches!(verify(&path), Err(VerifyError::Description { .. })));
        fs::remove_file(description_of(&path)).unwrap();
        assert!(matches!(verify(&path), Err(VerifyError::Read { path, .. }) if path.ends_with("b.json")));
    }
}
