//! What is heard of sessions: our own, renewals of others, and when one of them counts as lost.

use crate::agent::Agent;
use crate::cluster::publish::Publish;
use crate::cluster::session::News;
use crate::cluster::silence::Missing;
use crate::cluster::{Clustered, Later, clock};
use crate::input::Input;
use api::Severity;
use decisions::{ClusterEvent, Event, ProbeOutcome, Scope};
use model::{Millis, NodeName, Revision, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use store::session::{self, Ground, Session};
use store::{Change, Entry};

/// Who may claim a slot has this long before others end the session alone: a claim that ends it too is one write instead of two.
const CLAIM_FIRST: Duration = Duration::from_millis(50);
/// An agent that woke up later than a fourth of A was late itself: what it holds against others it begins to see anew. Less than that happens on
/// any machine under load, and harms nobody: a claim names the renewal that it has seen, and fails if there was another.
const LATE_PART: u32 = 4;

impl Agent {
    /// News of our own session.
    pub(crate) fn hear_session(&mut self, news: News, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        match news {
            News::Renewed { session, sent, took } => {
                cluster.commits.took(took, now);
                cluster.observer.write_ok(sent, clock::mark());
                cluster.taken = None;
                tell_return(cluster.answering.answered(now));
                let refused = cluster.answering.wrote();
                if refused {
                    let text = "the store takes what this node writes again".to_owned();
                    let because = "it acknowledged a renewal".to_owned();
                    self.journal.tell(Severity::Info, "store-accepts", text, because);
                }
                let Some(cluster) = &mut self.clustered else { return };
                if cluster.session != Some(session) {
                    self.own_session(Some(session), ClusterEvent::OwnSession(Some(session)), now);
                }
            }
            News::Failed(missing) => {
                // Whatever it was, nothing was written.
                cluster.observer.write_failed();
                self.missed(missing, now);
            }
            News::Probed(Ok(())) => tell_return(cluster.answering.answered(now)),
            News::Probed(Err(missing)) => self.missed(missing, now),
            News::Late(by) => {
                cluster.observer.late();
                let by = Millis(u64::try_from(by.as_millis()).unwrap_or(u64::MAX));
                tracing::warn!(%by, "this agent itself was late");
            }
            News::Lost { why, kept } => {
                let text = match kept {
                    false => "this node's exclusive actives were ended",
                    true => {
                        "this node's exclusive actives stand still until it has a session again; who was replaced meanwhile is ended then"
                    }
                };
                self.journal
                    .tell(Severity::Error, "fenced", text.to_owned(), why.to_string());
                let event = match kept {
                    true => ClusterEvent::OwnSessionKept,
                    false => ClusterEvent::OwnSession(None),
                };
                self.own_session(None, event, now);
            }
            News::Frozen(Some(why)) => {
                cluster.frozen = Some((why, now));
                self.core.handle(Event::Cluster(ClusterEvent::Still(true)), now);
                let text = "this node's exclusive actives stand still until the store answers".to_owned();
                self.journal.tell(Severity::Error, "frozen", text, why.to_string());
            }
            News::Frozen(None) => {
                if cluster.frozen.take().is_some() {
                    cluster.thawed_at = Some(now);
                    self.core.handle(Event::Cluster(ClusterEvent::Still(false)), now);
                    let text = "this node's exclusive actives go on".to_owned();
                    let because = "the store acknowledged a renewal in time".to_owned();
                    self.journal.tell(Severity::Warning, "thawed", text, because);
                }
            }
            News::Taken(session) => {
                if cluster.taken.as_ref().is_none_or(|taken| taken.id != session.id) {
                    tracing::warn!(
                        ?session,
                        "this node has a session that is not ours; waiting for its end"
                    );
                }
                cluster.taken = Some(*session);
            }
            News::Fencing(result) => {
                match &result {
                    Ok(what) => tracing::info!(what, "the guard can fence"),
                    Err(why) => tracing::error!(why, "the guard cannot fence; nothing exclusive may act on this node"),
                }
                if cluster.fencing.is_ok() != result.is_ok() {
                    cluster.fencing_since = now;
                }
                cluster.fencing = result;
            }
            News::AddressLost(instance) => {
                tracing::warn!(%instance, "its floating address has to be put back");
                self.executor.addresses.put_back(&instance);
            }
            News::Ended(instance) => {
                let text = format!("the guard ended {instance}");
                let because = "no renewal of this node's session was acknowledged in time".to_owned();
                self.journal.tell(Severity::Error, "fenced", text, because);
            }
        }
    }

    /// What a check says of an active that stands still because of us says nothing of it: it is to go on when the store answers, and not to be ended
    /// as one that hangs.
    pub(crate) fn fair(&self, event: Event, now: Timestamp) -> Event {
        let Some(cluster) = &self.clustered else { return event };
        match event {
            Event::Probed {
                instance,
                run,
                standby,
                began,
                outcome: ProbeOutcome::Fail(what),
            } => {
                // One that was under way when it went on fails too.
                let late = self.executor.check_timeout(&instance);
                let still = cluster.frozen.is_some() || cluster.thawed_at.is_some_and(|at| now.since(at) <= late);
                let outcome = match still && self.core.acting_exclusive().contains(&instance) {
                    true => ProbeOutcome::Unsure,
                    false => ProbeOutcome::Fail(what),
                };
                Event::Probed {
                    instance,
                    run,
                    standby,
                    began,
                    outcome,
                }
            }
            other => other,
        }
    }

    /// The store did not do something that was asked: it did not answer, or said no.
    pub(super) fn missed(&mut self, missing: Missing, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        match missing {
            Missing::Answer => {
                let patience = cluster.timing.soft_deadline.duration();
                if cluster.answering.unanswered(now, patience) {
                    tracing::warn!("the store does not answer");
                }
            }
            Missing::Consent(refusal) => {
                let why = refusal.why.clone();
                let (news, again) = cluster.answering.refused(now, refusal);
                tell_return(again);
                if news {
                    let text = "the store refuses what this node has to write".to_owned();
                    self.journal.tell(Severity::Error, "store-refuses", text, why);
                }
            }
        }
    }

    pub(super) fn own_session(&mut self, session: Option<Revision>, event: ClusterEvent, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        if cluster.session.is_some() && session.is_none() {
            cluster.session_lost = now;
        }
        cluster.session = session;
        if session.is_none() {
            cluster.power.session_lost();
        }
        let ours = cluster.controller.as_ref();
        let ours = ours.filter(|(controller, _)| controller.node == cluster.me && session.is_none());
        if let Some((_, elected)) = ours {
            // The same session may go on: what was asked for before is forgotten, and must not be done under it.
            cluster.elected_before = cluster.elected_before.max(*elected);
        }
        cluster.link.decides_under(session);
        if session.is_some() {
            // The watch may tell of it before: its silence would count as that of another.
            let me = cluster.me.clone();
            cluster.observer.own(&me);
        }
        cluster.told_empty = None;
        cluster.frozen = None;
        cluster.published.clear();
        let _ = cluster.publisher.send(Publish::Session(session));
        self.core.handle(Event::Cluster(event), now);
        if session.is_some() {
            self.core.tell_all();
        }
    }

    pub(super) fn renewals_seen(&mut self, node: &NodeName, changes: Vec<Change>, now: Timestamp) {
        for change in changes {
            match change {
                Change::Put(entry) => self.renewal_seen(node.clone(), Some(&entry), now),
                Change::Delete { .. } => self.renewal_seen(node.clone(), None, now),
            }
        }
    }

    /// A session as it was read or told apart. Which sessions there are is told by the watch that tells of slots, in one order with them.
    pub(super) fn renewal_seen(&mut self, node: NodeName, entry: Option<&Entry>, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let known = cluster.sessions.get(&node).map(|known| known.id);
        match entry {
            Some(entry) if known == Some(entry.create) => self.session_seen(node, entry, true, now),
            // Bound: one for each node whose renewals are told.
            Some(entry) => drop(cluster.early.insert(node, entry.clone())),
            None => drop(cluster.early.remove(&node)),
        }
    }

    /// `apart`: by the watch of that session alone, or read before it.
    pub(super) fn session_seen(&mut self, node: NodeName, entry: &Entry, apart: bool, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        // One that is told apart may be held against its node only while that watch goes on.
        let counts = cluster.scoped.scope().has_all() || (apart && cluster.scoped.scope().has(&node));
        let Ok(record) = serde_json::from_slice::<session::Record>(&entry.value) else {
            tracing::error!(%node, "its session cannot be read; it is treated as one that lives");
            return;
        };
        if cluster
            .sessions
            .get(&node)
            .is_some_and(|known| known.modified >= entry.modified)
        {
            // Read again, not renewed.
            let lease = record.lease_ms;
            if counts {
                let seen = clock::mark();
                cluster.observer.seen(&node, entry.create, entry.modified, lease, seen);
            }
            return;
        }
        let (lease, shown) = (record.lease_ms, record.wall);
        let session = Session {
            node: node.clone(),
            id: entry.create,
            modified: entry.modified,
            record,
        };
        let before = cluster.sessions.insert(node.clone(), session);
        cluster.heard.insert(node.clone(), now);
        if let Some(wall) = shown.filter(|_| node != cluster.me) {
            cluster.clocks.seen(&node, wall, now);
        }
        if node == cluster.me && cluster.session == Some(entry.create) {
            cluster.taken = None;
            return;
        }
        if counts {
            let seen = clock::mark();
            cluster.observer.seen(&node, entry.create, entry.modified, lease, seen);
        }
        if node == cluster.me {
            return;
        }
        let fresh = before.is_none_or(|before| before.id != entry.create);
        let was_expired = cluster.expired.remove(&node);
        if fresh {
            let event = ClusterEvent::Session {
                node,
                session: Some(entry.create),
            };
            self.core.handle(Event::Cluster(event), now);
        } else if was_expired {
            self.core.handle(Event::Cluster(ClusterEvent::Renewed { node }), now);
        }
    }

    /// Looks whether sessions of others have run out. To be called whenever the time asked for has come, and harmless at others.
    pub(crate) fn look_at_sessions(&mut self, now: Timestamp) {
        let at = clock::mark();
        let Some(cluster) = &mut self.clustered else { return };
        let late = cluster.timing.soft_deadline.duration() / LATE_PART;
        if cluster.look_at.take().is_some_and(|asked| at.waited_for(asked) > late) {
            cluster.observer.late();
        }
        let mut events = Vec::new();
        let mut own = None;
        let watched: Vec<&NodeName> = match cluster.scoped.scope() {
            Scope::Whole | Scope::Controller => cluster.sessions.keys().collect(),
            Scope::Of(nodes) => nodes.iter().collect(),
        };
        for node in watched {
            if *node == cluster.me {
                own = cluster.taken.as_ref().and_then(|taken| {
                    let rebooted = taken.record.machine == cluster.node.machine && taken.record.boot != cluster.boot;
                    let leave = if rebooted {
                        cluster.observer.may_condemn_rebooted(node, at)
                    } else {
                        cluster.observer.may_condemn_own(node, at)
                    };
                    let ground = if rebooted { Ground::Rebooted } else { Ground::Expired };
                    let session = cluster.sessions.get(node)?;
                    (leave.ok()?.modified == session.modified).then(|| (session.clone(), ground))
                });
                continue;
            }
            if cluster.expired.contains(node) {
                continue;
            }
            if let Ok(condemn) = cluster.observer.may_condemn(node, at) {
                events.push((node.clone(), condemn));
            }
        }
        cluster.look_at = cluster.observer.next_wakeup(at);
        if let Some((session, ground)) = own {
            cluster.taken = None;
            end_session(Arc::clone(&self.store), session, ground, cluster.me.to_string());
        }
        if events.is_empty() {
            return;
        }
        let Some(cluster) = &self.clustered else { return };
        let living = cluster.sessions.keys().filter(|node| !cluster.expired.contains(*node));
        let rank = cluster
            .scoped
            .scope()
            .rank(living.take_while(|node| **node != cluster.me).count());
        let wait = CLAIM_FIRST + cluster.timing.rank_stagger.duration() * rank;
        for (node, condemn) in events {
            let Some(cluster) = &mut self.clustered else { return };
            cluster.expired.insert(node.clone());
            if let Some(silent) = silence(cluster, &node, condemn.session, now) {
                self.core.handle(Event::Cluster(silent), now);
            }
            let inputs = self.inputs.clone();
            let later = Input::Later(Later::Condemn(node.clone()));
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let _ = inputs.send(later);
            });
            let event = ClusterEvent::Expired {
                node,
                session: condemn.session,
                modified: condemn.modified,
            };
            self.core.handle(Event::Cluster(event), now);
        }
    }

    /// T4e: ends a session that has run out, unless a claim did so by now.
    pub(super) fn condemn(&mut self, node: &NodeName) {
        let Some(cluster) = &self.clustered else { return };
        if !cluster.expired.contains(node) {
            return;
        }
        let Ok(leave) = cluster.observer.may_condemn(node, clock::mark()) else {
            return;
        };
        let Some(session) = cluster
            .sessions
            .get(node)
            .filter(|session| session.modified == leave.modified)
        else {
            return;
        };
        end_session(
            Arc::clone(&self.store),
            session.clone(),
            Ground::Expired,
            cluster.me.to_string(),
        );
    }
}

/// When the last renewal was seen of a session that is lost.
pub(super) fn silence(cluster: &Clustered, node: &NodeName, session: Revision, now: Timestamp) -> Option<ClusterEvent> {
    let silent = cluster.observer.silent_for(node, clock::mark())?;
    let node = node.clone();
    let since = now - silent;
    Some(ClusterEvent::Silent { node, session, since })
}

pub(super) fn end_session(store: Arc<dyn store::Store>, session: Session, ground: Ground, by: String) {
    tokio::spawn(async move {
        match session::condemn(store.as_ref(), &session, &ground, &by).await {
            Ok(ending) => tracing::info!(node = %session.node, ?ending, ?ground, "ended a session"),
            Err(error) => tracing::warn!(node = %session.node, %error, "cannot end a session that has run out"),
        }
    });
}

pub(super) fn tell_return(answers_again: bool) {
    if answers_again {
        tracing::info!("the store answers again");
    }
}
