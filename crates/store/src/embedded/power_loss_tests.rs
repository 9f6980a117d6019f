//! Cuts the store off at every write and looks at what is left.
//!
//! A workload is recorded down to its single writes and syncs. Then, for every point of that record, the file is put
//! together as it would be found after a crash at that point:
//!
//! - the process was killed: all writes before it are there;
//! - within a write: the first part of it is there, or a random choice of its sectors;
//! - the power was cut: what was written since the last sync is there or not, write by write, at random from a seed.
//!
//! What is read from it must be the state after a whole number of transactions, no fewer than were acknowledged by then
//! and no more than were submitted.

use super::disk::load;
use super::ram::{Ram, Step};
use super::*;
use crate::Op;
use crate::state::State;
use std::collections::BTreeMap;

const SECTOR: usize = 512;
const OPTIONS: Options = Options {
    create: false,
    history: 20,
};

#[tokio::test]
async fn no_cut_loses_an_acknowledged_write_or_shows_half_of_one() {
    let recording = record().await;
    let (mut content, mut unsynced) = (recording.start.clone(), Vec::new());
    let (mut acknowledged, mut submitted) = (1, 1);
    let (mut cuts, mut lost) = (0, 0);
    for (at, step) in recording.log.iter().enumerate() {
        match step {
            Step::Submitted(revision) => submitted = *revision,
            Step::Acknowledged(revision) => acknowledged = *revision,
            Step::Sync => unsynced.iter().for_each(|step: &&Step| step.apply_to(&mut content)),
            Step::Write { .. } | Step::SetLen(_) => {}
        }
        let mut check = |found: Vec<u8>, how: &str| {
            cuts += 1;
            let revision = recording.verify(found, at, how);
            assert!(
                (acknowledged..=submitted).contains(&revision),
                "step {at}, {how}: revision {revision}, acknowledged {acknowledged}, submitted {submitted}"
            );
            lost += u64::from(revision < submitted);
        };
        let mut random = fastrand::Rng::with_seed(at as u64);
        match step {
            Step::Sync => unsynced.clear(),
            Step::Write { .. } | Step::SetLen(_) => {
                let killed = unsynced.iter().fold(content.clone(), |mut content, step| {
                    step.apply_to(&mut content);
                    content
                });
                let mut within = killed.clone();
                first_part(step, &mut random).apply_to(&mut within);
                check(within, "killed within the write");
                check(killed, "killed before the write");
                unsynced.push(step);
                for turn in 0..2 {
                    check(
                        power_cut(&content, &unsynced, &mut random),
                        &format!("power cut, turn {turn}"),
                    );
                }
            }
            Step::Submitted(_) | Step::Acknowledged(_) => {}
        }
    }
    assert!(cuts > 500, "{cuts} cuts");
    assert!(
        lost > 100,
        "only {lost} cuts lost something that was not acknowledged: were they any?"
    );
}

/// What is left is not only readable: the store goes on from there.
#[tokio::test]
async fn a_store_that_was_cut_off_goes_on() {
    let recording = record().await;
    let mut content = recording.start.clone();
    let mut tried = 0;
    for (at, step) in recording.log.iter().enumerate() {
        step.apply_to(&mut content);
        if at % 11 != 0 {
            continue;
        }
        tried += 1;
        let ram = Ram::with_content(content.clone());
        let store = Embedded::on(Box::new(ram.clone()), &OPTIONS).unwrap();
        let before = store.list("").await.unwrap();
        store
            .txn(Txn::new().then(Op::put("later", at.to_string())))
            .await
            .unwrap();
        drop(store);
        let store = Embedded::on(Box::new(ram.after_power_cut()), &OPTIONS).unwrap();
        let (mut entries, revision) = store.list("").await.unwrap();
        entries.retain(|entry| entry.key != "later");
        assert_eq!((entries, revision), (before.0, Revision(before.1.0 + 1)), "step {at}");
    }
    assert!(tried > 20, "{tried} tried");
}

struct Recording {
    start: Vec<u8>,
    log: Vec<Step>,
    /// What should be in the store at each revision.
    states: BTreeMap<u64, State>,
}

impl Recording {
    /// Reads `content` and compares it with what should be there at the revision that it has.
    fn verify(&self, content: Vec<u8>, at: usize, how: &str) -> u64 {
        let found = load(Arc::new(Ram::with_content(content)), Path::new("ram"))
            .unwrap_or_else(|error| panic!("step {at}, {how}: {error}"));
        let expected = &self.states[&found.revision.0];
        assert!(
            found.entries == expected.entries,
            "step {at}, {how}: entries of revision {}",
            found.revision
        );
        // When it is trimmed depends on which transactions shared a commit; that it is a whole end of all there was,
        // and as much as promised, does not.
        assert!(
            found.history.len() >= expected.history.len().min(OPTIONS.history)
                && found
                    .history
                    .iter()
                    .rev()
                    .zip(expected.history.iter().rev())
                    .all(|(found, all)| found == all),
            "step {at}, {how}: history of revision {}",
            found.revision
        );
        found.revision.0
    }
}

/// Transactions of one to four at a time: small ones, large ones, deletions, enough of them to trim the history.
async fn record() -> Recording {
    let ram = Ram::with_store();
    let store = Embedded::on(Box::new(ram.clone()), &OPTIONS).unwrap();
    let mut state = State::default();
    let mut states = BTreeMap::from([(1, state.clone())]);
    let start = {
        let mut inner = ram.lock();
        inner.log = Some(Vec::new());
        inner.seen.clone()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let mut number = 0;
    for _ in 0..32 {
        let batch: Vec<Txn> = (0..random.u32(1..=4))
            .map(|_| {
                number += 1;
                transaction(number, &mut random)
            })
            .collect();
        ram.mark(Step::Submitted(state.revision.0 + batch.len() as u64));
        // Together or one after the other, as the writer happens to find them: the states are the same.
        let mut waiting = Vec::new();
        for txn in &batch {
            let (reply, answer) = oneshot::channel();
            store
                .queue
                .as_ref()
                .unwrap()
                .try_send(Request {
                    txn: txn.clone(),
                    reply,
                })
                .unwrap();
            waiting.push(answer);
        }
        for answer in waiting {
            answer.await.unwrap().unwrap();
        }
        for txn in &batch {
            let plan = state.plan([txn]);
            state.publish(plan.steps, None);
            states.insert(state.revision.0, state.clone());
        }
        ram.mark(Step::Acknowledged(state.revision.0));
    }
    drop(store);
    let log = ram.lock().log.take().unwrap();
    Recording { start, log, states }
}

fn transaction(number: u32, random: &mut fastrand::Rng) -> Txn {
    let size = if number.is_multiple_of(9) {
        9_000
    } else {
        random.usize(..300)
    };
    Txn::new()
        .then(Op::put("count", number.to_string()))
        .then(Op::put(format!("k/{}", number % 7), vec![number as u8; size]))
        .then(Op::delete(format!("k/{}", (number + 3) % 7)))
}

/// The first bytes of a write, or some of its sectors.
fn first_part(step: &Step, random: &mut fastrand::Rng) -> Step {
    match step {
        Step::Write { offset, data } => Step::Write {
            offset: *offset,
            data: data[..random.usize(..data.len().max(1))].to_vec(),
        },
        _ => Step::Sync,
    }
}

/// `content` with each of the writes since the last sync there, torn or not there.
fn power_cut(content: &[u8], unsynced: &[&Step], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut left = content.to_vec();
    for step in unsynced {
        match (random.u8(..4), step) {
            (0 | 1, _) => step.apply_to(&mut left),
            (2, Step::Write { offset, data }) => {
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    if random.bool() {
                        let offset = offset + (number * SECTOR) as u64;
                        Step::Write {
                            offset,
                            data: sector.to_vec(),
                        }
                        .apply_to(&mut left);
                    }
                }
            }
            _ => {}
        }
    }
    left
}
