//! One attempt at a node's power, carried out; and its power given back.

use crate::clock;
use crate::cluster::clock as marks;
use crate::cluster::session::Renewed;
use crate::executor::chain;
use decisions::power::{Call, GiveBack, Job, Next};
use model::{AfterFence, FenceDevice, FenceRecord, FenceState, Mark, NodeName, Revision};
use std::sync::Arc;
use std::time::Duration;
use store::fence::{self, Intent};
use store::session::{self, Ending, Ground};
use store::{Compare, Op, Store, Txn};
use tokio::sync::watch;

/// A write of ours is tried again for this long before its outcome counts as unknown.
const WRITE_FOR: Duration = Duration::from_secs(10);

/// One attempt at a node's power, carried out.
pub(super) struct Attempt {
    pub(super) store: Arc<dyn Store>,
    pub(super) devices: Vec<FenceDevice>,
    pub(super) after: AfterFence,
    /// Our session, and when it was renewed last.
    pub(super) renewals: watch::Receiver<Renewed>,
    /// How long after that we count on it.
    pub(super) lease: Duration,
    pub(super) intent: Intent,
}

impl Attempt {
    /// From the intent to the end of the node's session. Returns what to tell, and what was noted.
    pub(super) async fn run(&self) -> Result<(String, Off), String> {
        let node = &self.intent.node;
        let sent = marks::mark();
        let begun = fence::begin(self.store.as_ref(), &self.intent).await;
        let begun =
            begun.map_err(|error| format!("whether node {node} may be fenced is not known: {}", chain(&error)))?;
        let Some(begun) = begun else {
            return Err(format!(
                "node {node} has renewed its session or is back, or somebody else was first: nothing was done"
            ));
        };
        if let Err(why) = self.take(sent).await {
            let failed = FenceRecord {
                state: FenceState::Failed(why.clone()),
                at: clock::wall_now(),
                ..self.intent.record.clone()
            };
            if let Err(error) = note(self.store.as_ref(), node, begun, &failed).await {
                tracing::warn!(%node, error, "that its power was not taken away could not be noted");
            }
            return Err(why);
        }
        let record = &self.intent.record;
        let record = FenceRecord {
            proven: record.proven.max(record.session),
            at: clock::wall_now(),
            state: FenceState::Off,
            ..record.clone()
        };
        let sent = marks::mark();
        let revision = note(self.store.as_ref(), node, begun, &record).await?;
        self.end_session(revision).await;
        let told = format!("node {node} is off: every device of it says so");
        Ok((told, Off { record, revision, sent }))
    }

    /// The devices that give it its power back.
    pub(super) fn told_on(&self) -> &[FenceDevice] {
        match self.after {
            AfterFence::On => &self.devices,
            AfterFence::StayOff => &[],
        }
    }

    /// Every device is told, then read back.
    async fn take(&self, sent: Mark) -> Result<(), String> {
        let mut job = Job::new(&self.devices, self.intent.record.bound, sent);
        loop {
            match job.next(marks::mark(), self.is_ours()) {
                Next::Done => return Ok(()),
                Next::Fail(why) => return Err(why),
                Next::Wait(span) => {
                    tokio::time::sleep(span).await;
                    job.waited();
                }
                Next::Call(Call::Status(device)) => {
                    let off = drivers::power::is_off(&self.devices[device]).await;
                    job.read(off.map_err(|error| chain(&error)));
                }
                Next::Call(Call::Off(device) | Call::On(device)) => {
                    let off = drivers::power::off(&self.devices[device], job.begins_by(device)).await;
                    job.off_done(off.map_err(|error| chain(&error)));
                }
            }
        }
    }

    /// Whether nobody else can be at it: our session is the one in the intent, and was renewed a moment ago.
    fn is_ours(&self) -> bool {
        let renewed = *self.renewals.borrow();
        renewed.is_some_and(|(session, sent)| {
            session == self.intent.record.under && marks::mark().held_for(sent) < self.lease
        })
    }

    /// T4f: its session is the one that is meant, and the confirmation is unchanged.
    async fn end_session(&self, confirmed: Revision) {
        let (node, store) = (&self.intent.node, self.store.as_ref());
        let open = match session::get(store, node).await {
            Ok(Some(open)) if open.id == self.intent.record.session => open,
            // Somebody ended it by now; what is proven is in the record.
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%node, error = %chain(&error), "the session of a node that is off cannot be read; it runs out by itself");
                return;
            }
        };
        let ground = Ground::Fenced {
            key: fence::key(node),
            confirmed,
        };
        let by = self.intent.record.by.to_string();
        match session::condemn(store, &open, &ground, &by).await {
            Ok(Ending::Lives(_)) => tracing::warn!(%node, "its session is as it was: somebody wrote its record"),
            Ok(ending) => tracing::info!(%node, ?ending, "ended the session of a node that is off"),
            Err(error) => {
                tracing::warn!(%node, error = %chain(&error), "the session of a node that is off could not be ended; it runs out by itself");
            }
        }
    }
}

/// That a node is off, as it was noted.
pub(super) struct Off {
    pub(super) record: FenceRecord,
    pub(super) revision: Revision,
    /// Before it was.
    pub(super) sent: Mark,
}

/// Gives a node its power back by these devices when what was told has settled, and notes that nothing is left to be done.
pub(super) async fn give_back(
    store: &dyn Store,
    node: &NodeName,
    devices: &[FenceDevice],
    off: Off,
) -> Result<(), String> {
    let mut job = GiveBack::new(devices, off.record.bound, off.sent);
    let result = loop {
        match job.next(marks::mark()) {
            Next::Done => break Ok(()),
            Next::Fail(why) => break Err(why),
            Next::Wait(span) => {
                tokio::time::sleep(span).await;
                job.waited();
            }
            Next::Call(Call::On(device) | Call::Off(device) | Call::Status(device)) => {
                let on = drivers::power::on(&devices[device], job.begins_by(device)).await;
                job.on_done(on.map_err(|error| chain(&error)));
            }
        }
    };
    let done = FenceRecord {
        state: FenceState::Done,
        at: clock::wall_now(),
        ..off.record
    };
    note(store, node, off.revision, &done).await?;
    result
}

/// Writes a record on the one of a revision, and does not come back before that is known.
pub(super) async fn note(
    store: &dyn Store,
    node: &NodeName,
    from: Revision,
    record: &FenceRecord,
) -> Result<Revision, String> {
    let until = tokio::time::Instant::now() + WRITE_FOR;
    loop {
        match fence::note(store, node, from, record).await {
            Ok(Some(revision)) => return Ok(revision),
            Ok(None) => {
                return Err(format!(
                    "what is noted of the fencing of node {node} was changed by others meanwhile"
                ));
            }
            Err(error) if tokio::time::Instant::now() >= until => return Err(chain(&error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Compares and writes of a statement that a node is off whose session is gone already.
pub(in crate::cluster) fn stated(
    node: &NodeName,
    known: Option<(&FenceRecord, Revision)>,
    stated: FenceRecord,
) -> Option<Txn> {
    let key = fence::key(node);
    let (txn, proven) = match known {
        Some((record, revision)) => (Txn::new().when(Compare::modified(&key, revision)), record.proven),
        None => (Txn::new().when(Compare::absent(&key)), Revision(0)),
    };
    let record = FenceRecord {
        proven: proven.max(stated.session),
        ..stated
    };
    let value = serde_json::to_vec(&record).ok()?;
    let session = Compare::absent(session::session_key(node));
    Some(txn.when(session).then(Op::put(key, value)))
}
