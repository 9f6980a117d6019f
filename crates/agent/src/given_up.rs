//! Versions that do not work are kept in the store, under the revision that declares them: every agent tells of them, and whoever is elected
//! as the controller leaves them alone.
//!
//! Those of earlier revisions say nothing any more but to the history; the oldest of them go when there are many.

use crate::agent::Agent;
use crate::clock;
use crate::executor::chain;
use crate::input::Input;
use crate::slots::Controls;
use api::record::{self, Trial};
use decisions::Event;
use model::{InstanceId, Revision, ServiceName, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{Compare, Entry, Op, Store, Txn};

/// So many are kept, those of the file in force always: some files do not work, and few of a hundred are asked about.
const KEPT: usize = 100;

/// What a revision declares of a service.
pub(crate) type Version = (u64, ServiceName);

/// All that the store says to be given up, and the store's revision of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Versions(BTreeMap<Version, (record::GivenUp, Revision)>);

impl Versions {
    /// What was listed. What cannot be read is given up all the same: nobody tries it again unasked.
    pub(crate) fn read(entries: Vec<Entry>) -> Self {
        let mut versions = Self::default();
        for entry in entries {
            if let Some(version) = record::given_up_of_key(&entry.key) {
                versions.take_in(version, &entry);
            }
        }
        versions
    }

    /// What the revision in force declares and is given up, as the decisions know it.
    pub(crate) fn of(&self, in_force: Option<u64>) -> Vec<(ServiceName, decisions::GivenUp)> {
        let of_it = self.0.iter().filter(|((revision, _), _)| Some(*revision) == in_force);
        of_it
            .map(|((_, service), (given_up, _))| (service.clone(), known(given_up)))
            .collect()
    }

    /// The keys of all.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> {
        self.0
            .keys()
            .map(|(revision, service)| record::given_up_key(*revision, service))
    }

    /// What the applied file of a revision declares and was given up, for those who are shown it.
    pub(crate) fn shown(&self, revision: u64) -> Vec<api::GivenUpVersion> {
        let of_it = self.0.iter().filter(|((of, _), _)| *of == revision);
        let shown = |((_, service), (given_up, _)): (&Version, &(record::GivenUp, Revision))| api::GivenUpVersion {
            service: service.to_string(),
            since: clock::shown_wall(given_up.since),
            why: given_up.why.clone(),
            tries: given_up.tries,
            by: given_up.by.as_ref().map(ToString::to_string),
        };
        of_it.map(shown).collect()
    }

    fn take_in(&mut self, version: Version, entry: &Entry) -> &record::GivenUp {
        match serde_json::from_slice::<record::GivenUp>(&entry.value) {
            Ok(given_up) => {
                let kept = self.0.entry(version).insert_entry((given_up, entry.modified));
                &kept.into_mut().0
            }
            Err(error) => {
                tracing::error!(key = entry.key, %error, "why it was given up cannot be read");
                let unreadable = unreadable(&version.1);
                let kept = self.0.entry(version).insert_entry((unreadable, entry.modified));
                &kept.into_mut().0
            }
        }
    }
}

/// What is told of a record that cannot be read, perhaps of a later version of ours.
fn unreadable(service: &ServiceName) -> record::GivenUp {
    record::GivenUp {
        since: clock::wall_now(),
        why: "it was given up, and the record that says why cannot be read here".to_owned(),
        tries: 0,
        by: None,
        instance: InstanceId::new(service.clone(), 1),
        trial: Trial::Slot,
    }
}

impl Agent {
    /// Writes down that a version does not work. The store's watch tells it, where there is one.
    pub(crate) fn give_up(&mut self, service: ServiceName, given_up: decisions::GivenUp) {
        let Some(applied) = &self.applied else { return };
        let version = (applied.revision, service);
        let ground = Ground {
            applied_at: self.applied_at,
            controls: self.clustered.as_ref().and_then(crate::cluster::controls),
        };
        // Another agent is the controller by now, and finds out for itself.
        if self.clustered.is_some() && ground.controls.is_none() {
            return;
        }
        let kept = written(given_up);
        let (store, inputs, alone) = (Arc::clone(&self.store), self.inputs.clone(), self.clustered.is_none());
        tokio::spawn(async move {
            let there = async {
                write(store.as_ref(), &version, &kept, &ground).await?;
                if !alone {
                    return Ok(None);
                }
                let there = store.get(&record::given_up_key(version.0, &version.1)).await;
                there.map_err(|error| chain(&error))
            };
            match there.await {
                Ok(Some(entry)) => drop(inputs.send(Input::GivenUp(version, Some(entry)))),
                Ok(None) => {}
                Err(error) => {
                    let (revision, service) = &version;
                    tracing::warn!(revision, %service, error, "that it is given up cannot be written down");
                }
            }
        });
    }

    /// Writes down that a version may be tried again, if it is given up as was told.
    pub(crate) fn may_try_again(&mut self, service: ServiceName) {
        let Some(applied) = &self.applied else { return };
        let version = (applied.revision, service);
        let Some((_, modified)) = self.given_up.0.get(&version) else {
            // It is not written for this file, and need not be taken back.
            drop(self.inputs.send(Input::GivenUp(version, None)));
            return;
        };
        let key = record::given_up_key(version.0, &version.1);
        let txn = Txn::new()
            .when(Compare::modified(&*key, *modified))
            .then(Op::delete(&*key));
        let (store, inputs, alone) = (Arc::clone(&self.store), self.inputs.clone(), self.clustered.is_none());
        tokio::spawn(async move {
            match store.txn(txn).await {
                Ok(result) if result.succeeded && alone => drop(inputs.send(Input::GivenUp(version, None))),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(key, error = %chain(&error), "that it may be tried again cannot be written down");
                }
            }
        });
    }

    /// The store says that a version is given up.
    pub(crate) fn given_up_seen(&mut self, version: Version, entry: &Entry, now: Timestamp) {
        let is_in_force = self.is_of_file(&version);
        let service = version.1.clone();
        let given_up = Some(known(self.given_up.take_in(version, entry)));
        if is_in_force {
            self.core.handle(Event::GivenUp { service, given_up }, now);
        }
    }

    /// It is not, any more.
    pub(crate) fn given_up_gone(&mut self, version: &Version, now: Timestamp) {
        self.given_up.0.remove(version);
        if self.is_of_file(version) {
            let (service, given_up) = (version.1.clone(), None);
            self.core.handle(Event::GivenUp { service, given_up }, now);
        }
    }

    /// Another file is in force: tells the decisions what of it is given up.
    pub(crate) fn tell_given_up(&mut self, now: Timestamp) {
        let in_force = self.applied.as_ref().map(|applied| applied.revision);
        for (service, given_up) in self.given_up.of(in_force) {
            let given_up = Some(given_up);
            self.core.handle(Event::GivenUp { service, given_up }, now);
        }
    }

    fn is_of_file(&self, version: &Version) -> bool {
        self.applied
            .as_ref()
            .is_some_and(|applied| applied.revision == version.0)
    }
}

/// By what a version may be given up.
struct Ground {
    /// The file that declares it is in force: the store's revision of that.
    applied_at: Revision,
    /// We are the controller still, several machines only.
    controls: Option<Controls>,
}

/// Writes it, unless somebody did, another file is in force, or another agent the controller.
async fn write(
    store: &dyn Store,
    version: &Version,
    given_up: &record::GivenUp,
    ground: &Ground,
) -> Result<bool, String> {
    let key = record::given_up_key(version.0, &version.1);
    let value = serde_json::to_vec(given_up).map_err(|error| error.to_string())?;
    let (kept, _) = store.list(record::GIVEN_UP).await.map_err(|error| chain(&error))?;
    let is_earlier = |entry: &&Entry| record::given_up_of_key(&entry.key).is_none_or(|(of, _)| of < version.0);
    let too_many = (kept.len() + 1).saturating_sub(KEPT);
    let mut txn = Txn::new()
        .when(Compare::modified(record::CURRENT, ground.applied_at))
        .when(Compare::absent(&*key))
        .then(Op::put(&*key, value));
    if let Some(controls) = &ground.controls {
        txn = controls.compared_by(txn);
    }
    for oldest in kept.iter().filter(is_earlier).take(too_many) {
        txn = txn.then(Op::delete(&*oldest.key));
    }
    let result = store.txn(txn).await.map_err(|error| chain(&error))?;
    Ok(result.succeeded)
}

/// As the decisions know it.
fn known(given_up: &record::GivenUp) -> decisions::GivenUp {
    decisions::GivenUp {
        since: clock::ago(given_up.since),
        why: given_up.why.clone(),
        tries: given_up.tries,
        by: given_up.by.clone(),
        instance: given_up.instance.clone(),
        trial: match given_up.trial {
            Trial::Start => decisions::Trial::Start,
            Trial::Slot => decisions::Trial::Slot,
        },
    }
}

/// As the store keeps it.
fn written(given_up: decisions::GivenUp) -> record::GivenUp {
    record::GivenUp {
        since: clock::wall(given_up.since),
        why: given_up.why,
        tries: given_up.tries,
        by: given_up.by,
        instance: given_up.instance,
        trial: match given_up.trial {
            decisions::Trial::Start => Trial::Start,
            decisions::Trial::Slot => Trial::Slot,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::WallTime;
    use store::Memory;

    fn version(revision: u64) -> Version {
        (revision, ServiceName::new("db").unwrap())
    }

    fn vain() -> record::GivenUp {
        record::GivenUp {
            since: WallTime(1),
            why: "db-2 never became healthy with the new version: exit code 2".into(),
            tries: 5,
            by: None,
            instance: "db-2".parse().unwrap(),
            trial: Trial::Start,
        }
    }

    async fn put(store: &Memory, key: &str, value: &str) -> Revision {
        let txn = Txn::new().then(Op::put(key, value));
        store.txn(txn).await.unwrap().revision
    }

    async fn kept(store: &Memory) -> Vec<String> {
        let (entries, _) = store.list(record::GIVEN_UP).await.unwrap();
        entries.into_iter().map(|entry| entry.key).collect()
    }

    #[tokio::test]
    async fn only_the_controller_gives_up_only_what_is_in_force_and_only_once() {
        let store = Memory::default();
        let me = model::NodeName::new("a").unwrap();
        let session = put(&store, &store::session::session_key(&me), "{}").await;
        let elected = put(&store, record::CONTROLLER, "a").await;
        let applied_at = put(&store, record::CURRENT, "{}").await;
        let ground = |elected, applied_at| Ground {
            applied_at,
            controls: Some(Controls {
                me: me.clone(),
                session,
                elected,
            }),
        };
        let tried = |ground| {
            let store = &store;
            async move { write(store, &version(7), &vain(), &ground).await }
        };
        assert_eq!(
            tried(ground(Revision(1), applied_at)).await,
            Ok(false),
            "another was elected"
        );
        assert_eq!(
            tried(ground(elected, Revision(1))).await,
            Ok(false),
            "another file is in force"
        );
        assert!(kept(&store).await.is_empty());
        assert_eq!(tried(ground(elected, applied_at)).await, Ok(true));
        assert_eq!(tried(ground(elected, applied_at)).await, Ok(false), "it is written");
        let read = Versions::read(store.list(record::GIVEN_UP).await.unwrap().0);
        assert_eq!(read.shown(7).len(), 1);
        assert_eq!(read.of(Some(7))[0].1.why, vain().why);
        assert!(read.of(Some(8)).is_empty(), "it is of another file");
    }

    #[tokio::test]
    async fn the_oldest_of_earlier_files_go_and_what_is_in_force_stays() {
        let store = Memory::default();
        for revision in 1..=KEPT as u64 + 20 {
            let applied_at = put(&store, record::CURRENT, "{}").await;
            let ground = Ground {
                applied_at,
                controls: None,
            };
            assert_eq!(write(&store, &version(revision), &vain(), &ground).await, Ok(true));
        }
        let kept = kept(&store).await;
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0], "spec/given-up/0000000021/db");
        assert_eq!(kept[KEPT - 1], "spec/given-up/0000000120/db");
    }
}
