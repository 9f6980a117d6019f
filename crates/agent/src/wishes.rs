//! What operators want kept in the store, and what they did by hand: both are written at once, before it is answered.

use crate::agent::Agent;
use crate::clock;
use crate::cluster::silence::Answering;
use crate::executor::chain;
use crate::input::{Input, done, refused};
use api::Outcome;
use api::record::{self, Deed};
use model::WallTime;
use std::sync::Arc;
use std::time::Duration;
use store::{Compare, Op, Store, Txn};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// So many deeds are kept; they are done by hand, so that is years.
const DEEDS_KEPT: usize = 1_000;
/// A store that does not answer an operator within this is told to be lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// An agent that ends waits for no store longer than this to note who wanted it to.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);

/// Something that is so for as long as a key is there.
pub(crate) struct Wish {
    pub(crate) key: String,
    /// What the key says; nothing: the wish is over.
    pub(crate) kept: Option<serde_json::Result<serde_json::Value>>,
    pub(crate) deed: Deed,
    /// What the operator is answered.
    pub(crate) done: String,
    /// Likewise, if the key was there before.
    pub(crate) already: String,
    /// How the main loop learns of it on one machine.
    pub(crate) told: Input,
}

impl Agent {
    /// Writes a wish, or that it is over, and answers when that is done.
    pub(crate) fn write_wish(&self, wish: Wish, answer: oneshot::Sender<Result<Outcome, Outcome>>) {
        let Wish { key, kept, .. } = wish;
        let txn = match kept {
            Some(Ok(value)) => Txn::new()
                .when(Compare::absent(&*key))
                .then(Op::put(key, value.to_string())),
            None => Txn::new().then(Op::delete(key)),
            Some(Err(error)) => return drop(answer.send(Err(refused(error.to_string(), None)))),
        };
        let (store, inputs) = (Arc::clone(&self.store), self.inputs.clone());
        // Among several, the watch tells it, in the order in which it was done: an answer may be later than what was done after it.
        let alone = self.clustered.is_none();
        tokio::spawn(async move {
            let outcome = match write_with(store.as_ref(), txn, &wish.deed).await {
                Ok(true) => {
                    if alone {
                        let _ = inputs.send(wish.told);
                    }
                    Ok(done(wish.done))
                }
                Ok(false) => Err(refused(wish.already, None)),
                Err(error) => Err(not_written(&error)),
            };
            let _ = answer.send(outcome);
        });
    }

    /// Why nothing that has to be written is begun now, if that is so.
    pub(crate) fn not_begun(&self) -> Option<Outcome> {
        not_begun(&self.clustered.as_ref()?.answering)
    }

    /// Keeps something that is so for as long as a key is there, or ends it, and answers when it is written: among several nodes the watch tells
    /// all of them, this one too. On one machine the caller has told the core.
    pub(crate) fn keep_wish(
        &self,
        key: String,
        kept: Option<&str>,
        outcome: Outcome,
        answer: oneshot::Sender<Result<Outcome, Outcome>>,
    ) {
        if self.clustered.is_none() {
            self.wish(&key, kept);
            return drop(answer.send(Ok(outcome)));
        }
        let txn = Txn::new().then(match kept {
            Some(kept) => Op::put(key, kept),
            None => Op::delete(key),
        });
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let written = match tokio::time::timeout(ANSWER_WITHIN, store.txn(txn)).await {
                Ok(Ok(_)) => Ok(outcome),
                Ok(Err(error)) => Err(not_written(&chain(&error))),
                Err(_) => Err(not_written("the store does not answer")),
            };
            let _ = answer.send(written);
        });
    }

    /// Keeps what was done for an operator. It is lost where the store does not take it, for what was done is done; whoever wants to know that it is
    /// written waits for what comes back.
    pub(crate) fn note_deed(&self, by: &str, what: &str, about: &str, text: String) -> JoinHandle<Result<(), String>> {
        let deed = self.deed(clock::wall_now(), by, what, about, text);
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let written = write_with(store.as_ref(), Txn::new(), &deed).await;
            if let Err(error) = &written {
                tracing::warn!(
                    by = deed.by,
                    what = deed.what,
                    about = deed.about,
                    error,
                    "who did this is not kept"
                );
            }
            written.map(drop)
        })
    }

    /// Keeps that this node, or all of it, is taken down, and by whom.
    pub(crate) fn note_down(&mut self, by: &str) {
        let (about, text) = match &self.clustered {
            Some(cluster) => (cluster.me.to_string(), format!("node {} is taken down", cluster.me)),
            None => (self.name.clone(), format!("cluster {} is stopped", self.name)),
        };
        self.farewell = Some(self.note_deed(by, "down", &about, text));
    }

    /// Waits for what is being written of the end of this agent, for as long as it is worth.
    pub(crate) async fn take_leave(&mut self) {
        if let Some(written) = self.farewell.take() {
            let _ = tokio::time::timeout(FAREWELL_WITHIN, written).await;
        }
    }

    /// What an operator does through this agent.
    pub(crate) fn deed(&self, at: WallTime, by: &str, what: &str, about: &str, text: String) -> Deed {
        let node = self.core.view(clock::now()).nodes.into_iter().next();
        let through = match (&self.clustered, node) {
            (Some(cluster), _) => cluster.me.to_string(),
            (None, Some(node)) => node.name.to_string(),
            (None, None) => String::new(),
        };
        Deed {
            at,
            by: by.to_owned(),
            through,
            what: what.into(),
            about: about.to_owned(),
            text,
        }
    }
}

/// Why it was done, as it is put behind what was.
pub(crate) fn said(why: &str) -> String {
    match why {
        "" => String::new(),
        why => format!(": {why}"),
    }
}

pub(crate) fn no_store() -> Outcome {
    refused(
        "the store does not answer, and this must be written to it first",
        Some("`understudy cluster status` says which members are missing, and what to do".into()),
    )
}

/// Why nothing that has to be written is begun, if the store is known to take no writes.
pub(crate) fn not_begun(answering: &Answering) -> Option<Outcome> {
    if let Some((_, refusal)) = answering.refuses() {
        let text = format!(
            "nothing was begun, for the store refuses writes (store-refuses): {}",
            refusal.why
        );
        return Some(refused(text, Some(refusal.hint.clone())));
    }
    answering.lost().map(|_| no_store())
}

/// Writes something with a note of who did it; says whether it was as expected.
pub(crate) async fn write_with(store: &dyn Store, txn: Txn, deed: &Deed) -> Result<bool, String> {
    let value = serde_json::to_vec(deed).map_err(|error| error.to_string())?;
    let mut txn = txn.then(Op::put(record::deed_key(deed.at, &deed.through), value));
    let write = async {
        let (kept, _) = store.list(record::DEEDS).await?;
        if let Some(oldest) = kept.first().filter(|_| kept.len() >= DEEDS_KEPT) {
            txn = txn.then(Op::delete(&*oldest.key));
        }
        store.txn(txn).await
    };
    match tokio::time::timeout(ANSWER_WITHIN, write).await {
        Ok(Ok(result)) => Ok(result.succeeded),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("the store does not answer".into()),
    }
}

pub(crate) fn not_written(error: &str) -> Outcome {
    refused(
        format!("it could not be written: {error}"),
        Some("nothing was changed, unless the store carries it out late; `understudy status` shows it then".into()),
    )
}

#[cfg(test)]
mod tests {
    use super::not_begun;
    use crate::cluster::silence::{Answering, Refusal};
    use model::Timestamp;
    use std::time::Duration;

    #[test]
    fn nothing_is_begun_that_a_store_would_refuse_or_not_answer_and_why_is_said() {
        let at = |seconds: u64| Timestamp(seconds * 1_000_000);
        let mut store = Answering::new(at(0));
        assert_eq!(not_begun(&store), None);
        let refusal = Refusal {
            why: "it has reached its quota".into(),
            hint: "make room".into(),
        };
        store.refused(at(1), refusal);
        let outcome = not_begun(&store).expect("it is known to refuse");
        assert!(!outcome.done);
        assert!(
            outcome.text.contains("store-refuses") && outcome.text.contains("its quota"),
            "{}",
            outcome.text
        );
        assert_eq!(outcome.hint.as_deref(), Some("make room"));
        assert!(store.unanswered(at(9), Duration::from_secs(2)));
        let outcome = not_begun(&store).expect("it does not answer any more");
        assert!(outcome.text.contains("does not answer"), "{}", outcome.text);
        store.answered(at(10));
        assert_eq!(not_begun(&store), None);
    }
}
