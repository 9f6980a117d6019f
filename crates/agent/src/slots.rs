//! Slots and instances in the store.

use crate::clock;
use crate::executor::chain;
use api::record;
use decisions::{Begun, Commit, SlotKnown, SlotWrite};
use model::{InstanceId, NodeName, Revision, SlotId};
use std::time::Duration;
use store::{Compare, Op, Store, Txn};

/// A write whose outcome is unknown is asked for again after this long, this often, before the slot is read anew.
const UNKNOWN_RETRY: Duration = Duration::from_millis(50);
const UNKNOWN_RETRIES: u32 = 40;

pub(crate) async fn keep_record(
    store: &dyn Store,
    instance: &InstanceId,
    record: &record::Instance,
) -> Result<(), String> {
    let key = record::instance_key(instance);
    let value = serde_json::to_vec(record).map_err(|error| error.to_string())?;
    if store
        .get(&key)
        .await
        .is_ok_and(|entry| entry.is_some_and(|entry| entry.value == value))
    {
        return Ok(());
    }
    store
        .txn(Txn::new().then(Op::put(key, value)))
        .await
        .map(drop)
        .map_err(|error| chain(&error))
}

/// Removes the record of an instance. That of one of another node (`theirs`) only if it holds no slot, and if those by which it was judged that
/// nobody needs its data are as they were then: by old news the only copy would go.
pub(crate) async fn forget(
    store: &dyn Store,
    instance: &InstanceId,
    theirs: bool,
    judged_by: &[(SlotId, Revision)],
) -> Result<(), store::Error> {
    let number_key = format!("{}{}", record::NUMBERS, instance.service());
    let known = store.get(&number_key).await?;
    let known: u32 = known
        .and_then(|entry| String::from_utf8(entry.value).ok()?.parse().ok())
        .unwrap_or(0);
    let mut txn = Txn::new();
    if theirs {
        txn = txn.when(Compare::absent(format!("{}{instance}", record::BINDS)));
    }
    for (slot, written) in judged_by {
        txn = txn.when(Compare::modified(record::slot_key(slot), *written));
    }
    txn = txn
        .then(Op::delete(record::instance_key(instance)))
        .then(Op::delete(crate::cluster::publish::live_key(instance)))
        .then(Op::put(gone_key(instance), "1"))
        .then(Op::put(count_key(instance), "1"));
    if let Some(old) = instance.number().checked_sub(GONE_KEPT) {
        txn = txn.then(Op::delete(gone_key(&InstanceId::new(instance.service().clone(), old))));
    }
    if instance.number() > known {
        txn = txn.then(Op::put(number_key, instance.number().to_string()));
    }
    store.txn(txn).await.map(drop)
}

fn count_key(instance: &InstanceId) -> String {
    format!("{}{}", record::COUNTS, instance.service())
}

fn gone_key(instance: &InstanceId) -> String {
    format!("{}{instance}", record::GONE)
}

/// Who says that an instance shall exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ground {
    /// It runs here, and gets its record back.
    Runs,
    /// The controller, which knows all that was placed before.
    Controls(Controls),
}

/// By what an agent is the controller: as long as this stands, nobody else places anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Controls {
    /// Us.
    pub(crate) me: NodeName,
    /// Our session.
    pub(crate) session: Revision,
    /// The revision at which we were elected.
    pub(crate) elected: Revision,
}

impl Controls {
    /// Carried out only if we still are the controller.
    pub(crate) fn compared_by(&self, txn: Txn) -> Txn {
        txn.when(Compare::modified(record::CONTROLLER, self.elected))
            .when(Compare::created(store::session::session_key(&self.me), self.session))
    }
}

/// Writes down that an instance shall exist on a node, and that its number is used. One that is gone does not come back, however late this
/// is carried out, and who is not the controller any more places nothing. Returns false if it was there and is gone for good.
pub(crate) async fn assign(
    store: &dyn Store,
    instance: &InstanceId,
    node: &NodeName,
    ground: &Ground,
) -> Result<bool, String> {
    let key = record::instance_key(instance);
    let record = record::Instance {
        node: node.clone(),
        port: 0,
        retiring: false,
    };
    let value = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
    let number_key = format!("{}{}", record::NUMBERS, instance.service());
    let mut txn = Txn::new().when(Compare::absent(&*key));
    if let Ground::Controls(controls) = ground {
        txn = controls.compared_by(txn).when(Compare::absent(gone_key(instance)));
    }
    let txn = txn
        .then(Op::put(&*key, value))
        .then(Op::put(number_key, instance.number().to_string()))
        .then(Op::put(count_key(instance), "1"))
        .otherwise(Op::get(&*key))
        .otherwise(Op::get(gone_key(instance)));
    let result = again(|| store.txn(txn.clone())).await?;
    let gone = matches!(result.reads.as_slice(), [None, Some(_)]);
    Ok(result.succeeded || !gone)
}

/// Writes down that an instance shall go away, if it is still that of this node, we are still the controller, and no instance of the service
/// came or went since `counted`, which is what we know: by old news somebody would go who is needed by now.
/// Returns when it was written, if it was.
pub(crate) async fn retire(
    store: &dyn Store,
    instance: &InstanceId,
    node: &NodeName,
    controls: &Controls,
    counted: Revision,
) -> Result<Option<Revision>, String> {
    let key = record::instance_key(instance);
    let found = store.get(&key).await.map_err(|error| chain(&error))?;
    let Some(entry) = found else { return Ok(None) };
    let record: record::Instance = serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    if record.node != *node || record.retiring {
        return Ok(None);
    }
    let record = record::Instance {
        retiring: true,
        ..record
    };
    let value = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
    let count_key = count_key(instance);
    let txn = controls
        .compared_by(Txn::new())
        .when(Compare::modified(&*count_key, counted))
        .when(Compare::modified(&*key, entry.modified))
        .then(Op::put(count_key, "1"))
        .then(Op::put(&*key, value));
    let result = again(|| store.txn(txn.clone())).await?;
    Ok(result.succeeded.then_some(result.revision))
}

/// Instances whose end is remembered: more than could be asked for while a write is under way.
const GONE_KEPT: u32 = 1_000;

/// Tries a write that may be done twice until the store answers.
async fn again<'a>(
    write: impl Fn() -> store::BoxFuture<'a, Result<store::TxnResult, store::Error>>,
) -> Result<store::TxnResult, String> {
    let mut last = String::new();
    for _ in 0..UNKNOWN_RETRIES {
        match write().await {
            Ok(result) => return Ok(result),
            Err(error) => last = chain(&error),
        }
        tokio::time::sleep(UNKNOWN_RETRY * 4).await;
    }
    Err(last)
}

/// Writes a slot of several machines: T5 to T9 of the takeover protocol. Beside the slot's own revision it compares the sessions of
/// all that are concerned, ends that of a holder that is gone, and keeps an instance to one slot.
pub(crate) async fn write_shared_slot(store: &dyn Store, write: SlotWrite, because: String) -> Commit {
    let mut terms = Txn::new();
    for (node, session) in &write.sessions {
        terms = terms.when(Compare::created(store::session::session_key(node), *session));
    }
    if let Some(condemn) = &write.condemn {
        let key = store::session::session_key(&condemn.node);
        let grave = store::session::Grave {
            cause: store::session::Cause::Expired,
            by: write.node.to_string(),
            renewed_at: condemn.modified,
        };
        let grave_key = store::session::grave_key(&condemn.node, condemn.session);
        let value = match serde_json::to_vec(&grave) {
            Ok(value) => value,
            Err(error) => return Commit::Failed(error.to_string()),
        };
        terms = terms
            .when(Compare::modified(&*key, condemn.modified))
            .then(Op::delete(&*key))
            .then(Op::delete(store::session::there_key(&condemn.node)))
            .then(Op::put(grave_key, value));
    }
    if let Some(placed) = write.placed {
        terms = terms.when(Compare::created(record::instance_key(&write.holder), placed));
    }
    let bind = |id: &InstanceId| format!("{}{id}", record::BINDS);
    let stays = write.held && write.previous.as_ref() == Some(&write.holder);
    if !stays {
        if let Some(previous) = &write.previous {
            terms = terms.then(Op::delete(bind(previous)));
        }
        if write.held {
            let key = bind(&write.holder);
            terms = terms
                .when(Compare::absent(&*key))
                .then(Op::put(key, record::slot_key(&write.slot)));
        }
    }
    write_on(store, write, because, terms).await
}

/// Writes a slot by compare-and-swap, and does not come back before it is known whether it is written (or cannot be known).
pub(crate) async fn write_slot(store: &dyn Store, write: SlotWrite, because: String) -> Commit {
    write_on(store, write, because, Txn::new()).await
}

async fn write_on(store: &dyn Store, write: SlotWrite, because: String, terms: Txn) -> Commit {
    let key = record::slot_key(&write.slot);
    let state = if write.held {
        record::SlotState::Held
    } else {
        record::SlotState::Released
    };
    let slot = record::Slot {
        state,
        holder: write.holder,
        node: write.node,
        epoch: write.epoch,
        attempt: write.attempt,
        since: clock::wall_now(),
        because,
        session: write.session,
        served: write.served,
        data: write.data.filter(|_| write.session.is_some()),
        served_before: write.served_before.filter(|_| write.session.is_some()),
        begun: write
            .begun
            .filter(|_| write.session.is_some())
            .map(|begun| record::Begun {
                ago_ms: begun.ago,
                planned: begun.planned,
                from: begun.from,
            }),
    };
    let value = match serde_json::to_vec(&slot) {
        Ok(value) => value,
        Err(error) => return Commit::Failed(error.to_string()),
    };
    let expected = if write.expect.0 == 0 {
        Compare::absent(&*key)
    } else {
        Compare::modified(&*key, write.expect)
    };
    let terms = match write.claims {
        true => terms.when(Compare::absent(record::park_key(&write.slot))),
        false => terms,
    };
    let txn = terms
        .when(expected)
        .then(Op::put(&*key, value))
        .otherwise(Op::get(&*key));
    for _ in 0..UNKNOWN_RETRIES {
        let answer = store.txn(txn.clone()).await;
        return match answer {
            Ok(result) if result.succeeded => Commit::Done(result.revision),
            Ok(result) => {
                let found = result.reads.into_iter().flatten().next();
                let known = found.and_then(|entry| known_slot(&write.slot, &entry));
                match known {
                    // Our own write, whose answer was lost.
                    Some(known) if known.attempt == write.attempt => Commit::Done(known.revision),
                    known => Commit::Conflict(known.map(Box::new)),
                }
            }
            Err(store::Error::Unknown { .. } | store::Error::Unsettled { .. }) => {
                tokio::time::sleep(UNKNOWN_RETRY).await;
                continue;
            }
            Err(error) => Commit::Failed(chain(&error)),
        };
    }
    Commit::Failed("the store does not tell whether it was written".into())
}

/// A slot as the store has it.
pub(crate) fn known_slot(slot: &SlotId, entry: &store::Entry) -> Option<SlotKnown> {
    let record: record::Slot = serde_json::from_slice(&entry.value).ok()?;
    Some(SlotKnown {
        slot: slot.clone(),
        held: record.state == record::SlotState::Held,
        holder: record.holder,
        epoch: record.epoch,
        revision: entry.modified,
        attempt: record.attempt,
        node: record.node,
        session: record.session,
        served: record.served,
        data: record.data,
        served_before: record.served_before,
        because: record.because,
        begun: record.begun.map(|begun| Begun {
            ago: begun.ago_ms,
            planned: begun.planned,
            from: begun.from,
        }),
        since: clock::ago(record.since),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Memory;

    #[tokio::test]
    async fn who_is_one_too_many_does_not_go_once_another_has_gone() {
        let store = Memory::default();
        let controls = elected(&store).await;
        for number in 1..=3 {
            let ground = Ground::Controls(controls.clone());
            assert_eq!(assign(&store, &db(number), &node("a"), &ground).await, Ok(true));
        }
        // One of three is too many. While that is decided, another one goes by itself.
        let counted = counted(&store).await;
        forget(&store, &db(2), false, &[]).await.unwrap();
        let written = retire(&store, &db(3), &node("a"), &controls, counted).await;
        assert_eq!(written, Ok(None));
        assert_eq!(
            retiring(&store, 3).await,
            Some(false),
            "two are left, and both are needed"
        );

        let counted = self::counted(&store).await;
        retire(&store, &db(3), &node("a"), &controls, counted).await.unwrap();
        assert_eq!(retiring(&store, 3).await, Some(true), "nothing has changed since");
        retire(&store, &db(1), &node("a"), &controls, counted).await.unwrap();
        assert_eq!(retiring(&store, 1).await, Some(false), "the first one was counted then");
    }

    #[tokio::test]
    async fn who_is_not_the_controller_any_more_ends_nobody() {
        let store = Memory::default();
        let controls = elected(&store).await;
        let ground = Ground::Controls(controls.clone());
        assert_eq!(assign(&store, &db(1), &node("a"), &ground).await, Ok(true));
        let counted = counted(&store).await;
        store
            .txn(Txn::new().then(Op::put(record::CONTROLLER, "another")))
            .await
            .unwrap();
        retire(&store, &db(1), &node("a"), &controls, counted).await.unwrap();
        assert_eq!(retiring(&store, 1).await, Some(false));
    }

    #[tokio::test]
    async fn who_was_forgotten_is_given_no_slot_and_who_holds_one_is_not_forgotten() {
        let store = Memory::default();
        let ground = Ground::Controls(elected(&store).await);
        assert_eq!(assign(&store, &db(1), &node("a"), &ground).await, Ok(true));
        let placed = placed(&store).await;

        forget(&store, &db(1), true, &[]).await.unwrap();
        let refused = write_shared_slot(&store, claim(placed), String::new()).await;
        assert_eq!(refused, Commit::Conflict(None));

        // Its node, which it runs on, may write its record again: then it is another one.
        assert_eq!(assign(&store, &db(1), &node("a"), &Ground::Runs).await, Ok(true));
        let refused = write_shared_slot(&store, claim(placed), String::new()).await;
        assert_eq!(refused, Commit::Conflict(None));
        let again = self::placed(&store).await;
        let written = write_shared_slot(&store, claim(again), String::new()).await;
        assert!(matches!(written, Commit::Done(_)), "{written:?}");
        forget(&store, &db(1), true, &[]).await.unwrap();
        assert_eq!(retiring(&store, 1).await, Some(false), "it holds a slot");
    }

    #[tokio::test]
    async fn who_served_since_what_is_known_is_not_forgotten() {
        let store = Memory::default();
        let ground = Ground::Controls(elected(&store).await);
        assert_eq!(assign(&store, &db(1), &node("a"), &ground).await, Ok(true));
        let slot = claim(Revision(0)).slot;
        let never_written = [(slot.clone(), Revision(0))];
        let Commit::Done(served) = write_shared_slot(&store, claim(placed(&store).await), String::new()).await else {
            panic!("it takes the slot")
        };
        // Another one has it by now, and nothing of what was written before.
        assert_eq!(assign(&store, &db(2), &node("b"), &ground).await, Ok(true));
        let place = store.get(&record::instance_key(&db(2))).await.unwrap().unwrap();
        let next = SlotWrite {
            expect: served,
            holder: db(2),
            placed: Some(place.create),
            node: node("b"),
            data: Some((db(1), model::Epoch(1))),
            previous: Some(db(1)),
            ..claim(place.create)
        };
        let Commit::Done(now) = write_shared_slot(&store, next, String::new()).await else {
            panic!("the other takes it")
        };
        for old in [never_written, [(slot.clone(), served)]] {
            forget(&store, &db(1), true, &old).await.unwrap();
            assert_eq!(retiring(&store, 1).await, Some(false), "it has the only copy");
        }
        forget(&store, &db(1), true, &[(slot, now)]).await.unwrap();
        assert_eq!(retiring(&store, 1).await, None, "who says so knows what the store has");
    }

    async fn placed(store: &Memory) -> Revision {
        store.get(&record::instance_key(&db(1))).await.unwrap().unwrap().create
    }

    fn claim(placed: Revision) -> SlotWrite {
        SlotWrite {
            slot: SlotId {
                service: db(1).service().clone(),
                slot: 0,
            },
            attempt: placed.0,
            expect: Revision(0),
            held: true,
            holder: db(1),
            placed: Some(placed),
            node: node("a"),
            epoch: model::Epoch(1),
            served: false,
            data: None,
            served_before: None,
            previous: None,
            claims: true,
            session: Some(Revision(1)),
            sessions: Vec::new(),
            condemn: None,
            begun: None,
        }
    }

    async fn elected(store: &Memory) -> Controls {
        let session = store::session::session_key(&node("a"));
        let written = Txn::new()
            .then(Op::put(session, "open"))
            .then(Op::put(record::CONTROLLER, "a"));
        let at = store.txn(written).await.unwrap().revision;
        Controls {
            me: node("a"),
            session: at,
            elected: at,
        }
    }

    async fn counted(store: &Memory) -> Revision {
        store.get(&count_key(&db(1))).await.unwrap().unwrap().modified
    }

    async fn retiring(store: &Memory, number: u32) -> Option<bool> {
        let entry = store.get(&record::instance_key(&db(number))).await.unwrap()?;
        let record: record::Instance = serde_json::from_slice(&entry.value).unwrap();
        Some(record.retiring)
    }

    fn db(number: u32) -> InstanceId {
        InstanceId::new("db".parse().unwrap(), number)
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }
}
