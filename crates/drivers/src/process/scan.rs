//! What runs on this machine, read from `/proc` in one go, and which of it belongs to an instance.
//!
//! Only trees without a cgroup need this. A scan costs some ten microseconds per process of the machine, so it is shared: a
//! hundred instances that die at once are looked for in one or two scans, not in a hundred.

use rustix::fs::{CWD, Mode, OFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The variable by which a process is known to be of an instance: `CLUSTER/INSTANCE/RUN`.
pub(crate) const MARKER: &str = "UNDERSTUDY_INSTANCE";
/// The marker is put first; programs that sort their environment seldom have more than this before it.
const ENVIRONMENT_BYTES_MAX: u64 = 256 * 1024;

/// A process at the time of the scan.
#[derive(Debug, Clone)]
pub(crate) struct Proc {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    pub(crate) state: char,
    /// Clock ticks from boot to its start: with the pid, its identity.
    pub(crate) start: u64,
    /// Its own CPU time and that of its children that have ended, in clock ticks.
    pub(crate) cpu_ticks: u64,
    pub(crate) resident_pages: u64,
    pub(crate) marker: Option<Arc<str>>,
}

impl Proc {
    /// Whether it is dead and only waits for its parent to notice.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Reads a single process, without its marker.
    pub(crate) fn read(pid: u32) -> Option<Self> {
        let mut bytes = Vec::with_capacity(512);
        fs::File::open(format!("/proc/{pid}/stat"))
            .ok()?
            .read_to_end(&mut bytes)
            .ok()?;
        parse_stat(&String::from_utf8_lossy(&bytes))
    }
}

fn parse_stat(stat: &str) -> Option<Proc> {
    // The second field is the name in parentheses, which may itself contain both spaces and parentheses.
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Numbers as in proc_pid_stat(5), of which the first here is field 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let small = |field: usize| u32::try_from(number(field)?).ok();
    Some(Proc {
        pid: pid.parse().ok()?,
        parent: small(4)?,
        group: small(5)?,
        session: small(6)?,
        state: fields.first()?.chars().next()?,
        start: number(22)?,
        cpu_ticks: [14, 15, 16, 17].into_iter().filter_map(number).sum(),
        resident_pages: number(24).unwrap_or(0),
        marker: None,
    })
}

/// Whose processes are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root {
    /// The main process; also the number of its session and group.
    pub(crate) pid: u32,
    pub(crate) start: u64,
    pub(crate) marker: Arc<str>,
}

/// All processes at one time.
#[derive(Default)]
pub(crate) struct Snapshot {
    procs: BTreeMap<u32, Proc>,
}

impl Snapshot {
    /// Reads `/proc`. Markers count if they begin with `prefix`. `known` are markers found earlier, by pid and start: they
    /// stay true even if a program has overwritten its environment since.
    fn take(prefix: &str, known: &BTreeMap<(u32, u64), Arc<str>>) -> io::Result<Self> {
        Self::read(|process| {
            // Kernel threads, the children of 2, have no environment.
            if process.parent == 2 || process.is_zombie() {
                return None;
            }
            let found_earlier = known.get(&(process.pid, process.start)).cloned();
            found_earlier.or_else(|| marker_of(process.pid, prefix))
        })
    }

    /// Reads `/proc` without looking for markers.
    pub(crate) fn unmarked() -> io::Result<Self> {
        Self::read(|_| None)
    }

    fn read(marker: impl Fn(&Proc) -> Option<Arc<str>>) -> io::Result<Self> {
        let mut procs = BTreeMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Some(mut process) = Proc::read(pid) else { continue };
            process.marker = marker(&process);
            procs.insert(pid, process);
        }
        Ok(Self { procs })
    }

    fn markers(&self) -> BTreeMap<(u32, u64), Arc<str>> {
        let marked = self
            .procs
            .values()
            .filter_map(|process| Some(((process.pid, process.start), process.marker.clone()?)));
        marked.collect()
    }

    /// What lives of an instance: its session, its group, whatever carries its marker, and all their descendants.
    pub(crate) fn members(&self, root: &Root) -> Vec<Proc> {
        let main = self.procs.get(&root.pid);
        // As long as the main process is there, if only as a zombie, its number as session or group is not another's.
        let number_is_ours = main.is_some_and(|main| main.start == root.start);
        self.with_descendants(|process| match &process.marker {
            Some(marker) => *marker == root.marker,
            None => number_is_ours && (process.session == root.pid || process.group == root.pid),
        })
    }

    /// Everything that carries a marker of our cluster that is not among `known`, and all their descendants.
    pub(crate) fn strays(&self, known: &BTreeSet<String>) -> Vec<Proc> {
        self.with_descendants(|process| process.marker.as_deref().is_some_and(|marker| !known.contains(marker)))
    }

    fn with_descendants(&self, is_member: impl Fn(&Proc) -> bool) -> Vec<Proc> {
        let ours = self.own_ancestry();
        let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for process in self.procs.values() {
            children.entry(process.parent).or_default().push(process.pid);
        }
        let mut open: Vec<u32> = self
            .procs
            .values()
            .filter(|process| is_member(process))
            .map(|process| process.pid)
            .collect();
        let mut members = BTreeSet::new();
        while let Some(pid) = open.pop() {
            if !ours.contains(&pid) && members.insert(pid) {
                open.extend(children.get(&pid).into_iter().flatten());
            }
        }
        members
            .iter()
            .filter_map(|pid| self.procs.get(pid))
            .filter(|process| !process.is_zombie())
            .cloned()
            .collect()
    }

    /// This process and those above it: never to be killed, even if we run inside an instance.
    fn own_ancestry(&self) -> BTreeSet<u32> {
        let mut ours = BTreeSet::from([0, 1]);
        let mut pid = std::process::id();
        while ours.insert(pid) {
            pid = self.procs.get(&pid).map_or(0, |process| process.parent);
        }
        ours
    }

    /// Dead children of ours that wait to be reaped.
    pub(crate) fn dead_children(&self) -> impl Iterator<Item = &Proc> {
        let us = std::process::id();
        self.procs
            .values()
            .filter(move |process| process.is_zombie() && process.parent == us)
    }
}

fn marker_of(pid: u32, prefix: &str) -> Option<Arc<str>> {
    let file = rustix::fs::openat(
        CWD,
        format!("/proc/{pid}/environ"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let mut environment = Vec::with_capacity(4096);
    // An error midway (the process has just ended, or executes another program) leaves what was read until then.
    let _ = fs::File::from(file)
        .take(ENVIRONMENT_BYTES_MAX)
        .read_to_end(&mut environment);
    let entry = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(MARKER.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(entry).into()).filter(|marker: &Arc<str>| marker.starts_with(prefix))
}

/// Takes scans and lends them.
pub(crate) struct Scanner {
    /// `CLUSTER/`
    prefix: Arc<str>,
    last: tokio::sync::Mutex<Last>,
}

#[derive(Default)]
struct Last {
    begun: Option<Instant>,
    snapshot: Arc<Snapshot>,
    markers: BTreeMap<(u32, u64), Arc<str>>,
}

impl Scanner {
    pub(crate) fn new(cluster: &str) -> Self {
        Self {
            prefix: format!("{cluster}/").into(),
            last: tokio::sync::Mutex::default(),
        }
    }

    /// A scan that began after this call did. All who ask while one is under way share the next.
    pub(crate) async fn fresh(&self) -> io::Result<Arc<Snapshot>> {
        self.since(Instant::now()).await
    }

    /// A scan that is at most this old.
    pub(crate) async fn recent(&self, age_max: Duration) -> io::Result<Arc<Snapshot>> {
        let now = Instant::now();
        self.since(now.checked_sub(age_max).unwrap_or(now)).await
    }

    async fn since(&self, moment: Instant) -> io::Result<Arc<Snapshot>> {
        let mut last = self.last.lock().await;
        if last.begun.is_none_or(|begun| begun < moment) {
            let begun = Instant::now();
            let (prefix, known) = (Arc::clone(&self.prefix), std::mem::take(&mut last.markers));
            let taken = tokio::task::spawn_blocking(move || Snapshot::take(&prefix, &known)).await;
            let snapshot = taken.map_err(io::Error::other)??;
            *last = Last {
                begun: Some(begun),
                markers: snapshot.markers(),
                snapshot: Arc::new(snapshot),
            };
        }
        Ok(Arc::clone(&last.snapshot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_confuse() {
        let fields = (1..=52).map(|n| n.to_string()).collect::<Vec<_>>();
        let stat = format!("42 (a) (b) S {}", fields[3..].join(" "));
        let process = parse_stat(&stat).unwrap();
        assert_eq!(
            (process.pid, process.parent, process.group, process.session),
            (42, 4, 5, 6)
        );
        assert_eq!(
            (process.state, process.start, process.cpu_ticks),
            ('S', 22, 14 + 15 + 16 + 17)
        );
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn members_are_the_session_the_marked_and_their_descendants_but_never_ourselves() {
        let us = std::process::id();
        let snapshot = Snapshot {
            procs: [
                proc(1_000_001, 1, 1_000_001, 7, None),
                proc(1_000_002, 1, 1_000_001, 8, None),         // of the session
                proc(1_000_003, 1_000_002, 1_000_003, 9, None), // left it, still its child
                proc(1_000_004, 1, 1_000_004, 9, Some("c/web-1/3")), // a daemon
                proc(1_000_005, 1, 1_000_005, 9, Some("c/web-1/4")), // of another run
                proc(1_000_006, 1, 1_000_001, 9, Some("c/web-2/1")), // took over the number of the session
                proc(1_000_008, 1, 1_000_008, 9, Some("c/web-1/3")), // where we run ourselves
                proc(us, 1_000_008, us, 9, None),
                proc(1_000_007, us, 1_000_007, 9, None),
            ]
            .into_iter()
            .map(|process| (process.pid, process))
            .collect(),
        };
        let root = |start| Root {
            pid: 1_000_001,
            start,
            marker: "c/web-1/3".into(),
        };
        let pids = |procs: Vec<Proc>| procs.iter().map(|process| process.pid - 1_000_000).collect::<Vec<_>>();
        assert_eq!(pids(snapshot.members(&root(7))), [1, 2, 3, 4]);
        assert_eq!(
            pids(snapshot.members(&root(6))),
            [4],
            "the number belongs to another process now"
        );
        let known = ["c/web-1/3".to_owned(), "c/web-2/1".to_owned()].into();
        assert_eq!(pids(snapshot.strays(&known)), [5]);
        assert_eq!(pids(snapshot.strays(&BTreeSet::new())), [4, 5, 6]);
    }

    fn proc(pid: u32, parent: u32, session: u32, start: u64, marker: Option<&str>) -> Proc {
        let (group, state, marker) = (session, 'S', marker.map(Into::into));
        Proc {
            pid,
            parent,
            group,
            session,
            state,
            start,
            cpu_ticks: 0,
            resident_pages: 0,
            marker,
        }
    }
}
