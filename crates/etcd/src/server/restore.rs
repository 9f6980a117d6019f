//! Brings a store back: from a backup, or from the data of the one member that is left.
//!
//! Both put new data in the place of old ones, and both keep the old ones aside: nothing is deleted here, ever.

use super::backup::{Description, VerifyError, sync_folder_of, verify};
use super::binary::{self, Etcd, Tool};
use super::cluster::{READY_PATIENCE, wait_ready};
use super::config::{Config, Initial, beside};
use super::lock::{self, LockError};
use super::{PATIENCE, Server};
use rustix::fs::{statvfs, syncfs};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How far a restored store's revisions are raised, where etcd can: farther than any store gets between two backups, as
/// etcd's own guide recommends.
const BUMP: u64 = 1_000_000_000;
/// Flag of etcd by which a member forgets all others.
const FORCE_NEW_CLUSTER: &str = "--force-new-cluster=true";

/// What to do with data that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// Refuse.
    Refuse,
    /// Keep them beside the new ones, under another name.
    MoveAside,
}

/// A store that was brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What it was brought back from.
    pub description: Description,
    /// Whether its revisions were raised beyond all that were ever used. If not, the store has gone back in the eyes of
    /// everybody who remembers revisions: **the caller must raise its generation**.
    pub revision_bumped: bool,
    /// Where the old data are.
    pub kept: Option<PathBuf>,
}

/// Why a store could not be brought back. The data are as they were.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backup.
    #[error(transparent)]
    Backup(#[from] VerifyError),
    /// A program.
    #[error(transparent)]
    Binary(#[from] binary::Error),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] super::config::Invalid),
    /// An etcd runs on the data.
    #[error("etcd still runs: {0}")]
    Lock(#[from] LockError),
    /// There are data.
    #[error("`{}` is not empty", dir.display())]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// There are none to go on from.
    #[error("`{}` has no data of a member", dir.display())]
    NoData {
        /// The folder.
        dir: PathBuf,
    },
    /// The program that restores said no.
    #[error("`{}` failed: {said}", program.display())]
    Tool {
        /// The program.
        program: PathBuf,
        /// Its last word.
        said: String,
    },
    /// The disk.
    #[error("failed to {doing} `{}`: {source}", path.display())]
    Io {
        /// "copy", "move", "sync".
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No room for the copy that is kept.
    #[error("no room to keep a copy of `{}`: {needed} bytes are needed, {free} are free", dir.display())]
    NoRoom {
        /// The folder.
        dir: PathBuf,
        /// Its size.
        needed: u64,
        /// What the disk has.
        free: u64,
    },
    /// The restored member does not serve.
    #[error(transparent)]
    Cluster(#[from] super::cluster::Error),
    /// The working thread broke down: a defect of ours.
    #[error("the work broke off: {0}")]
    Broken(String),
}

impl Error {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Backup(error) => Some(error.hint().into()),
            Error::Binary(error) => Some(error.hint()),
            Error::Config(invalid) => invalid.hint().map(str::to_owned),
            Error::Lock(_) => Some("stop the member first; so must be all others of the old cluster".into()),
            Error::NotEmpty { .. } => Some("restore into another folder, or have the old data moved aside".into()),
            Error::NoData { .. } => Some("name the data folder of a member that survived, or restore a backup".into()),
            Error::NoRoom { .. } => Some("free some space: nothing is done without a copy of the old data".into()),
            Error::Io { .. } | Error::Tool { .. } => {
                Some("the folder must be on a local disk with room for the store, and belong to this user".into())
            }
            Error::Cluster(error) => error.hint(),
            Error::Broken(_) => None,
        }
    }
}

/// Restores a backup as the first member of a new cluster: `config` says its name, addresses and data folder. Start it then with
/// [`Server::start`], and let the others join with empty folders.
pub async fn restore(backup: &Path, config: &Config, old: Old) -> Result<Restored, Error> {
    let (backup, config) = (backup.to_path_buf(), config.clone());
    blocking(move || restore_now(&backup, &config, old)).await
}

/// Makes a cluster of one member out of the data of one that survived the loss of the majority, and starts it. What the
/// lost members had acknowledged and this one had not heard of is lost. The caller makes sure that **none of the others ever
/// comes back** with its old data, and raises its generation. The data as they were are kept aside; returned is where.
pub async fn force_new_cluster(mut config: Config) -> Result<(Server, PathBuf), Error> {
    config.check()?;
    config.initial = Initial::New;
    let before = config.clone();
    let kept = blocking(move || keep_copy(&before)).await?;
    forget_the_others(&config).await?;
    let server = Server::start(config).await.map_err(super::cluster::Error::from)?;
    wait_ready(&server, READY_PATIENCE).await?;
    tracing::warn!(kept = %kept.display(), "etcd is a cluster of one member now");
    Ok((server, kept))
}

/// Runs etcd with its dangerous flag until it serves: no longer than needed, and never under the eyes of what restarts it.
async fn forget_the_others(config: &Config) -> Result<(), Error> {
    let forcing = Server::start_with(config.clone(), &[FORCE_NEW_CLUSTER])
        .await
        .map_err(super::cluster::Error::from)?;
    let ready = wait_ready(&forcing, READY_PATIENCE).await;
    forcing.stop(PATIENCE).await.map_err(super::cluster::Error::from)?;
    ready.map(drop).map_err(Error::from)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(broken) => Err(Error::Broken(broken.to_string())),
    }
}

fn restore_now(backup: &Path, config: &Config, old: Old) -> Result<Restored, Error> {
    config.check()?;
    let description = verify(backup)?;
    let tool = Tool::find()?;
    let dir = &config.data_dir;
    let there = is_filled(dir)?;
    if there && old == Old::Refuse {
        return Err(Error::NotEmpty { dir: dir.clone() });
    }
    // Held until all is in place, so that nobody starts etcd meanwhile.
    let _lock = lock::take(&config.lock(), dir)?;
    let new = free_name(dir, "restored");
    let revision_bumped = run(&tool, backup, config, &new)?;
    sync(&new)?;
    let kept = match there {
        true => Some(move_aside(dir, "before-restore")?),
        false => {
            // An empty folder is in the way of the rename.
            let _ = fs::remove_dir(dir);
            None
        }
    };
    fs::rename(&new, dir).map_err(io_failed("move", &new))?;
    sync_folder_of(dir).map_err(io_failed("sync", dir))?;
    Ok(Restored {
        description,
        revision_bumped,
        kept,
    })
}

/// Runs the tool that makes the data; returns whether it raised the revisions.
fn run(tool: &Tool, backup: &Path, config: &Config, into: &Path) -> Result<bool, Error> {
    let bumps = matches!(
        tool,
        Tool::Etcdutl {
            bumps_revision: true,
            ..
        }
    );
    let mut command = Command::new(tool.path());
    command
        .env_clear()
        .env("ETCDCTL_API", "3")
        .stdin(Stdio::null())
        .args(["snapshot", "restore"])
        .arg(backup)
        .arg("--data-dir")
        .arg(into)
        .args(["--name", &config.name])
        .args(["--initial-cluster", &format!("{}={}", config.name, config.peer_url())])
        .args(["--initial-advertise-peer-urls", &config.peer_url()])
        .args(["--initial-cluster-token", &config.token]);
    if bumps {
        command.args(["--bump-revision", &BUMP.to_string(), "--mark-compacted"]);
    }
    let output = command.output().map_err(io_failed("execute", tool.path()))?;
    if output.status.success() {
        return Ok(bumps);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Tool {
        program: tool.path().into(),
        said: said.lines().last().unwrap_or("it said nothing").to_owned(),
    })
}

fn keep_copy(config: &Config) -> Result<PathBuf, Error> {
    if !config.has_data() {
        return Err(Error::NoData {
            dir: config.data_dir.clone(),
        });
    }
    Etcd::find(config.program.as_deref())?;
    let dir = &config.data_dir;
    let _lock = lock::take(&config.lock(), dir)?;
    let needed = size_of(dir).map_err(io_failed("copy", dir))?;
    let free = statvfs(dir).map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    if free < needed {
        return Err(Error::NoRoom {
            dir: dir.clone(),
            needed,
            free,
        });
    }
    let kept = free_name(dir, "before-force");
    copy(dir, &kept).map_err(io_failed("copy", dir))?;
    sync(&kept)?;
    Ok(kept)
}

/// Gives a folder another name beside its own, and returns that.
pub(super) fn move_aside(dir: &Path, why: &str) -> Result<PathBuf, Error> {
    let kept = free_name(dir, why);
    fs::rename(dir, &kept).map_err(io_failed("move", dir))?;
    Ok(kept)
}

/// `DIR.WHY-SECONDS`, or with a further number if that is taken.
fn free_name(dir: &Path, why: &str) -> PathBuf {
    let now = super::seconds_since_1970();
    let names = std::iter::once(format!("{why}-{now}")).chain((2..).map(|n| format!("{why}-{now}-{n}")));
    let mut free = names.map(|name| beside(dir, &name)).filter(|path| !path.exists());
    free.next().unwrap_or_else(|| beside(dir, why))
}

fn is_filled(dir: &Path) -> Result<bool, Error> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_failed("look into", dir)(source)),
    }
}

/// Everything of the file system that the folder is on: it holds many files, and this happens once in a year.
fn sync(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|folder| syncfs(&folder).map_err(io::Error::from));
    synced.map_err(io_failed("sync", dir))?;
    sync_folder_of(dir).map_err(io_failed("sync", dir))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn size_of(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => size_of(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

fn io_failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        doing,
        path: path.into(),
        source,
    }
}
