//! What operators did by force is told on every node: once, also on one that was away meanwhile, and never again by an agent that comes back.

use api::record::{self, Deed};
use model::Revision;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use store::Entry;

/// Which deeds this node knows of.
#[derive(Debug)]
pub(crate) struct Deeds {
    cluster: String,
    generation: u32,
    /// All up to this revision are known.
    known: Revision,
    file: Arc<Mutex<File>>,
}

/// Survives the agent, and a reboot.
#[derive(Debug)]
struct File {
    path: PathBuf,
    holds: Revision,
}

/// What the file says.
#[derive(serde::Serialize, serde::Deserialize)]
struct Told {
    /// Revisions of another cluster's store say nothing.
    cluster: String,
    /// Nor do those of before the store was put back from a backup. Programs of before kept none.
    #[serde(default)]
    generation: u32,
    revision: Revision,
}

/// The generation of a store: another one begins when it is put back from a backup, and its revisions may begin at lower numbers again.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Generation {
    number: u32,
    /// When it began.
    since: Revision,
}

impl Generation {
    /// As it is listed.
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let meta = entries.iter().find(|entry| entry.key == record::META);
        let read = |entry: &Entry| {
            let meta = serde_json::from_slice::<record::Meta>(&entry.value).ok()?;
            Some(Self {
                number: meta.generation,
                since: entry.modified,
            })
        };
        meta.and_then(read).unwrap_or_default()
    }
}

impl Deeds {
    /// Goes on where the agent before left off. On a node that tells of the cluster's deeds for the first time, what was done up to `now` is
    /// history: `understudy history --deeds` shows it. After a restore all is new that was done since.
    pub(crate) fn open(path: PathBuf, cluster: &str, now: Revision, generation: Generation) -> Self {
        let told = std::fs::read(&path).ok();
        let told = told.and_then(|text| serde_json::from_slice::<Told>(&text).ok());
        let told = told.filter(|told| told.cluster == cluster);
        let mut file = File {
            path,
            holds: Revision::default(),
        };
        let known = match told {
            Some(told) if told.generation == generation.number => told.revision.min(now),
            Some(told) => told.revision.min(generation.since).min(now),
            None => {
                file.keep(cluster, generation.number, now);
                now
            }
        };
        file.holds = known;
        Self {
            cluster: cluster.to_owned(),
            generation: generation.number,
            known,
            file: Arc::new(Mutex::new(file)),
        }
    }

    /// Those of `entries` that this node has not told of. To be followed by [`Deeds::told`] once it has.
    pub(crate) fn news<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Deed> {
        let deeds = entries.into_iter().filter(|entry| entry.key.starts_with(record::DEEDS));
        let mut new: Vec<&Entry> = deeds.filter(|entry| entry.modified > self.known).collect();
        // Their keys are in the order of the clocks of several nodes.
        new.sort_by_key(|entry| entry.modified);
        let Some(newest) = new.last() else {
            return Vec::new();
        };
        self.known = newest.modified;
        let read = |entry: &Entry| match serde_json::from_slice::<Deed>(&entry.value) {
            Ok(deed) => Some(deed),
            Err(error) => {
                tracing::error!(key = entry.key, %error, "what an operator did cannot be read");
                None
            }
        };
        new.into_iter().filter_map(read).collect()
    }

    /// Notes that all of them were told: an agent that dies before that tells them once more, which is better than never. On a thread of its own, for
    /// a disk that hangs must not hold the main loop.
    pub(crate) fn told(&self) -> impl FnOnce() + Send + 'static {
        let (file, cluster, generation, known) = (
            Arc::clone(&self.file),
            self.cluster.clone(),
            self.generation,
            self.known,
        );
        move || {
            file.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .keep(&cluster, generation, known);
        }
    }
}

impl File {
    fn keep(&mut self, cluster: &str, generation: u32, revision: Revision) {
        // Two of these may overtake each other.
        if revision < self.holds {
            return;
        }
        match self.write(cluster, generation, revision) {
            Ok(()) => self.holds = revision,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "which deeds were told is not kept; a restart may tell them again");
            }
        }
    }

    fn write(&self, cluster: &str, generation: u32, revision: Revision) -> io::Result<()> {
        let told = Told {
            cluster: cluster.to_owned(),
            generation,
            revision,
        };
        let new = self.path.with_extension("new");
        std::fs::write(&new, serde_json::to_vec(&told).map_err(io::Error::other)?)?;
        std::fs::rename(new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mirror;
    use model::WallTime;
    use store::{Memory, Op, Store, Txn};

    #[tokio::test]
    async fn a_force_that_was_not_watched_is_told_once_when_all_is_listed_again() {
        let (store, folder) = (Memory::default(), tempfile::tempdir().unwrap());
        let path = || folder.path().join("told.json");
        force(&store, 10, "long ago").await;

        let mut agent = opened(path(), "shop", &store).await;
        assert_eq!(
            told(&mut agent, &store).await,
            NONE,
            "what was done before it came is history"
        );
        force(&store, 30, "no watch").await;
        // By a node whose clock is behind.
        force(&store, 20, "no watch either").await;
        assert_eq!(told(&mut agent, &store).await, ["no watch", "no watch either"]);
        assert_eq!(told(&mut agent, &store).await, NONE, "listed again");
        drop(agent);

        force(&store, 40, "no agent").await;
        let mut agent = opened(path(), "shop", &store).await;
        assert_eq!(told(&mut agent, &store).await, ["no agent"]);
        drop(agent);
        let mut agent = opened(path(), "shop", &store).await;
        assert_eq!(told(&mut agent, &store).await, NONE, "an agent that comes back");

        let mut other = Deeds::open(path(), "another", Revision(0), Generation::default());
        assert_eq!(
            told(&mut other, &store).await.len(),
            4,
            "these were told of another cluster"
        );
    }

    #[tokio::test]
    async fn what_is_forced_after_a_restore_is_told_though_its_revisions_are_lower() {
        let folder = tempfile::tempdir().unwrap();
        let path = || folder.path().join("told.json");
        let store = Memory::default();
        begin(&store, 0).await;
        drop(opened(path(), "shop", &store).await);
        for at in 1..20 {
            force(&store, at, "before").await;
        }
        let mut agent = opened(path(), "shop", &store).await;
        assert_eq!(told(&mut agent, &store).await.len(), 19);

        // From a backup without most of that, by an etcdutl that raises no revisions.
        let put_back = Memory::default();
        force(&put_back, 1, "before").await;
        begin(&put_back, 1).await;
        let mut agent = opened(path(), "shop", &put_back).await;
        assert_eq!(told(&mut agent, &put_back).await, NONE);
        force(&put_back, 30, "after").await;
        assert_eq!(told(&mut agent, &put_back).await, ["after"]);
        drop(agent);
        let mut agent = opened(path(), "shop", &put_back).await;
        assert_eq!(told(&mut agent, &put_back).await, NONE, "an agent that comes back");

        // And once more, while this node is away for so long that its revisions have passed those of before.
        let again = Memory::default();
        begin(&again, 2).await;
        force(&again, 40, "while it was away").await;
        for at in 41..50 {
            put(&again, &format!("hardware/{at}"), b"{}".to_vec()).await;
        }
        let mut agent = opened(path(), "shop", &again).await;
        assert_eq!(told(&mut agent, &again).await, ["while it was away"]);
    }

    const NONE: [&str; 0] = [];

    async fn opened(path: PathBuf, cluster: &str, store: &Memory) -> Deeds {
        let (entries, now) = listed(store).await;
        Deeds::open(path, cluster, now, Generation::of(&entries))
    }

    /// As `cluster init` and a restore do.
    async fn begin(store: &Memory, generation: u32) {
        let meta = record::Meta {
            cluster_id: "shop".into(),
            generation,
            format: record::FORMAT,
        };
        put(store, record::META, serde_json::to_vec(&meta).unwrap()).await;
    }

    async fn put(store: &Memory, key: &str, value: Vec<u8>) {
        store.txn(Txn::new().then(Op::put(key, value))).await.unwrap();
    }

    async fn listed(store: &Memory) -> (Vec<Entry>, Revision) {
        mirror::list(store, &"a".parse().unwrap()).await.unwrap()
    }

    async fn told(agent: &mut Deeds, store: &Memory) -> Vec<String> {
        let new = agent.news(&listed(store).await.0);
        agent.told()();
        new.into_iter().map(|deed| deed.text).collect()
    }

    async fn force(store: &Memory, at: i64, text: &str) {
        let deed = Deed {
            at: WallTime(at),
            by: "operator".into(),
            through: "b".into(),
            what: "force".into(),
            about: "db/0".into(),
            text: text.into(),
        };
        let key = record::deed_key(deed.at, &deed.through);
        let put = Op::put(key, serde_json::to_vec(&deed).unwrap());
        store.txn(Txn::new().then(put)).await.unwrap();
    }
}
