//! Measures what a machine and its network can do, before a timing is chosen: the disk under the data, the scheduler, the way to
//! the peers.
//!
//! All three at once, because etcd needs all three at once. It takes as long as it is told, a second by default.

use super::process::NICE;
use rustix::fs::{FallocateFlags, fallocate, fdatasync, statfs};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long [`measure`] takes unless told otherwise: some thousand syncs of a good disk, some dozens of a bad one.
pub const SPAN: Duration = Duration::from_secs(1);
/// One page, as etcd's write-ahead log writes it.
const BLOCK_BYTES: usize = 4096;
/// The file written to wraps around here, as etcd writes into a file that is there already.
const FILE_BLOCKS: u64 = 256;
/// What the scheduler is asked for again and again.
const NAP: Duration = Duration::from_millis(1);
/// Between two connections to a peer: it is asked some dozens of times, not flooded.
const BETWEEN_CONNECTS: Duration = Duration::from_millis(20);
/// A peer that is silent for so long is no member of any profile.
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

/// Some samples of a span, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// How many samples; of fewer than a hundred, `p99` is the longest.
    pub samples: usize,
    /// Half were no longer than this.
    pub p50: Duration,
    /// 99 of 100 were no longer than this.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Spread {
    /// Sums up; `None` of no samples.
    pub fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        let nearest_rank = |percent: usize| samples.get((samples.len() * percent).div_ceil(100).max(1) - 1).copied();
        Some(Self {
            samples: samples.len(),
            p50: nearest_rank(50)?,
            p99: nearest_rank(99)?,
            max: *samples.last()?,
        })
    }
}

/// What was measured on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurements {
    /// One block written and synced (`fdatasync`), in the folder of the data.
    pub disk: Spread,
    /// Whether that folder is in memory only, so that its figures say nothing and its data do not outlive the machine.
    pub volatile: bool,
    /// How much later than asked a thread is woken up.
    pub scheduling: Spread,
    /// There and back, of each peer, in the order given.
    pub peers: Vec<Peer>,
}

/// The way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it was asked.
    pub address: SocketAddr,
    /// How long it took; `None` if it never answered.
    pub rtt: Option<Spread>,
    /// How many attempts had no answer within two seconds or failed without one.
    pub unanswered: usize,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder cannot be written to.
    #[error("failed to {doing} in `{}` to measure its disk: {source}", dir.display())]
    Disk {
        /// "make a file", "write", "sync".
        doing: &'static str,
        /// The folder.
        dir: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The measuring thread broke down: a defect of ours.
    #[error("the measurement broke off: {0}")]
    Broken(String),
}

impl Error {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Error::Disk { source, .. } => Some(match source.kind() {
                io::ErrorKind::NotFound => "create the folder first, on the disk that etcd's data will be on",
                io::ErrorKind::PermissionDenied => "run as the user that owns the folder, or as root",
                io::ErrorKind::StorageFull => "free some space: 1 MiB is needed to measure, etcd needs more",
                _ => "look into the kernel's messages (dmesg): the disk may be failing",
            }),
            Error::Broken(_) => None,
        }
    }
}

/// Measures for `span`: the disk under `dir`, scheduling, and round trips to `peers`.
///
/// A round trip is a TCP connection made, or refused: a host that refuses answers as quickly as one that listens, so the
/// peers need not run anything yet. A firewall that drops silently counts as unanswered.
pub async fn measure(dir: &Path, peers: &[SocketAddr], span: Duration) -> Result<Measurements, Error> {
    let folder = dir.to_path_buf();
    let disk = like_etcd("measure-disk", move || disk(&folder, span))?;
    let scheduling = like_etcd("measure-delay", move || scheduling(span))?;
    let asked: Vec<_> = peers
        .iter()
        .map(|address| tokio::spawn(round_trips(*address, span)))
        .collect();
    let broken = |error: tokio::task::JoinError| Error::Broken(error.to_string());
    let mut answered = Vec::with_capacity(asked.len());
    for peer in asked {
        answered.push(peer.await.map_err(broken)?);
    }
    let nothing = || Error::Broken("not one sample within the time given".into());
    let broken = |error: oneshot::error::RecvError| Error::Broken(error.to_string());
    let disk = disk.await.map_err(broken)??;
    Ok(Measurements {
        disk: Spread::of(disk).ok_or_else(nothing)?,
        volatile: is_volatile(dir),
        scheduling: Spread::of(scheduling.await.map_err(broken)?).ok_or_else(nothing)?,
        peers: answered,
    })
}

/// Runs something in a thread of its own, with the priority that etcd will have. Not one of the runtime's threads, which could
/// not give it back.
fn like_etcd<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<oneshot::Receiver<T>, Error> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        // Of the calling thread alone. Where it is not allowed, etcd will not be allowed it either.
        let _ = rustix::process::setpriority_process(None, NICE);
        let _ = done.send(work());
    });
    thread.map(|_| result).map_err(|error| Error::Broken(error.to_string()))
}

/// Writes and syncs a block again and again: how long each took. At least one, however slow the disk.
fn disk(dir: &Path, span: Duration) -> Result<Vec<Duration>, Error> {
    let failed = |doing| {
        move |source: io::Error| Error::Disk {
            doing,
            dir: dir.into(),
            source,
        }
    };
    let path = dir.join(format!(".understudy-measure-{}", std::process::id()));
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("make a file"))?;
    // Without a name already now: nothing is left behind, whatever happens.
    fs::remove_file(&path).map_err(failed("make a file"))?;
    prepare(&file).map_err(failed("write"))?;
    let block = [0x5a; BLOCK_BYTES];
    let (begun, mut samples) = (Instant::now(), Vec::new());
    while samples.is_empty() || begun.elapsed() < span {
        let before = Instant::now();
        let at = samples.len() as u64 % FILE_BLOCKS * BLOCK_BYTES as u64;
        file.write_all_at(&block, at).map_err(failed("write"))?;
        fdatasync(&file).map_err(|error| failed("sync")(error.into()))?;
        samples.push(before.elapsed());
    }
    Ok(samples)
}

/// Reserves the blocks beforehand, as etcd does for its log: else each sync would pay for the file's growth.
fn prepare(file: &File) -> io::Result<()> {
    let bytes = FILE_BLOCKS * BLOCK_BYTES as u64;
    if fallocate(file, FallocateFlags::empty(), 0, bytes).is_err() {
        file.set_len(bytes)?;
    }
    file.sync_all()
}

fn is_volatile(dir: &Path) -> bool {
    statfs(dir).is_ok_and(|stat| {
        let kind = stat.f_type.cast_unsigned();
        kind == TMPFS_MAGIC || kind == RAMFS_MAGIC
    })
}

fn scheduling(span: Duration) -> Vec<Duration> {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    while samples.is_empty() || begun.elapsed() < span {
        let before = Instant::now();
        std::thread::sleep(NAP);
        samples.push(before.elapsed().saturating_sub(NAP));
    }
    samples
}

async fn round_trips(address: SocketAddr, span: Duration) -> Peer {
    let (begun, mut samples, mut unanswered) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < span {
        let before = Instant::now();
        let connected = tokio::time::timeout(CONNECT_PATIENCE, tokio::net::TcpStream::connect(address)).await;
        match connected {
            Ok(Ok(_)) => samples.push(before.elapsed()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => samples.push(before.elapsed()),
            Ok(Err(_)) | Err(_) => unanswered += 1,
        }
        tokio::time::sleep(BETWEEN_CONNECTS).await;
    }
    Peer {
        address,
        rtt: Spread::of(samples),
        unanswered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest_and_of_few_samples_the_last() {
        let ms = |n| Duration::from_millis(n);
        let spread = Spread::of((1..=200).rev().map(ms).collect()).unwrap();
        assert_eq!(
            (spread.samples, spread.p50, spread.p99, spread.max),
            (200, ms(100), ms(198), ms(200))
        );
        let one = Spread::of(vec![ms(7)]).unwrap();
        assert_eq!((one.p50, one.p99, one.max), (ms(7), ms(7), ms(7)));
        assert_eq!(Spread::of(vec![]), None);
    }

    #[tokio::test]
    async fn a_refusing_peer_answers_and_nothing_is_left_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = listener.local_addr().unwrap();
        // Of an address that nobody else uses, so nobody listens there.
        let refusing: SocketAddr = "127.83.9.1:9".parse().unwrap();
        let span = Duration::from_millis(150);
        let measured = measure(dir.path(), &[listening, refusing], span).await.unwrap();
        assert!(measured.disk.samples > 0 && measured.disk.p50 > Duration::ZERO);
        assert!(measured.scheduling.samples > 10, "{measured:?}");
        for peer in &measured.peers {
            assert!(peer.rtt.is_some_and(|rtt| rtt.samples > 1), "{peer:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_named() {
        let error = measure(Path::new("/nonexistent/data"), &[], Duration::from_millis(1))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to make a file in `/nonexistent/data` to measure its disk: No such file or directory (os error 2)"
        );
        assert!(error.hint().is_some_and(|hint| hint.starts_with("create the folder")));
    }
}
