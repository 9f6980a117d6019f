//! What the store and the session say, for the decisions.

use super::mirror::{Apart, Seen};
use super::publish::Publish;
use super::session::News;
use super::silence::Missing;
use super::tell::says_the_same;
use super::{Clustered, Later, clock};
use crate::agent::Agent;
use crate::input::Input;
use crate::slots::known_slot;
use api::Severity;
use api::record::{self, Applied, Live, Member};
use decisions::{ClusterEvent, Event, InstancePhase, Place, ProbeOutcome, Report, Scope};
use model::{InstanceId, Millis, NodeName, Revision, ServiceName, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::session::{self, Ground, SESSIONS, Session};
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
            News::Renewed { session, sent } => {
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
    fn missed(&mut self, missing: Missing, now: Timestamp) {
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

    fn own_session(&mut self, session: Option<Revision>, event: ClusterEvent, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        cluster.session = session;
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

    /// News from the store.
    pub(crate) fn hear_store(&mut self, seen: Seen, now: Timestamp) {
        match seen {
            Seen::Lost(why) => {
                let Some(cluster) = &mut self.clustered else { return };
                cluster.scoped.lost(&mut cluster.observer);
                if cluster.answering.watch_ended(now, &why) {
                    tracing::warn!(why, "the store's changes are not heard any more");
                }
            }
            Seen::Anew => {
                if let Some(cluster) = &mut self.clustered {
                    cluster.scoped.lost(&mut cluster.observer);
                }
            }
            Seen::Apart { node, number, told } => {
                // What was under way when its renewals were not needed any more is of no watch that goes on.
                let cluster = self.clustered.as_mut();
                if let Some(cluster) = cluster.filter(|cluster| cluster.scoped.tells(&node, number)) {
                    match told {
                        Apart::Session(entry) => self.renewal_seen(node, entry.as_ref(), now),
                        Apart::Renewals(changes) => self.renewals_seen(&node, changes, now),
                        Apart::Unheard => cluster.observer.unheard(&node),
                    }
                }
            }
            Seen::All { opened, entries } => {
                self.core.hear_on();
                self.hear_all(opened, entries, now);
                self.core.all_heard(now);
            }
            Seen::Changes(changes) => {
                if let Some(cluster) = &mut self.clustered {
                    tell_return(cluster.answering.heard(now));
                }
                self.core.hear_on();
                for change in changes {
                    match change {
                        Change::Put(entry) => self.hear_put(&entry, now),
                        Change::Delete { key } => self.hear_delete(&key, now),
                    }
                }
                self.core.all_heard(now);
            }
        }
    }

    #[expect(clippy::needless_pass_by_value, reason = "what was told is handed over")]
    fn hear_all(&mut self, opened: u64, entries: Vec<Entry>, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let there: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let mut gone: Vec<String> = Vec::new();
        gone.extend(cluster.sessions.keys().map(session::session_key));
        gone.extend(cluster.members.keys().map(|node| format!("{}{node}", record::MEMBERS)));
        gone.extend(cluster.hardware.keys().map(crate::hardware::key));
        gone.extend(cluster.lives.keys().map(super::publish::live_key));
        gone.extend(cluster.assigned.keys().map(record::instance_key));
        gone.extend(cluster.drained.iter().map(|node| format!("{}{node}", record::NODES)));
        gone.extend(
            cluster
                .rebalancing
                .iter()
                .map(|name| format!("{}{name}", record::REBALANCE)),
        );
        gone.extend(self.core.parks().keys().map(record::park_key));
        gone.extend(self.given_up.keys());
        gone.extend(cluster.controller.iter().map(|_| record::CONTROLLER.to_owned()));
        gone.extend(cluster.presence.is_told().then(|| record::WHOLE.to_owned()));
        // What was read when this agent came up, too.
        let is_paused = cluster.paused || self.core.is_paused();
        gone.extend(is_paused.then(|| record::PAUSED.to_owned()));
        gone.retain(|key| !there.contains(key.as_str()));
        for key in gone {
            self.hear_delete(&key, now);
        }
        self.deeds_seen(&entries);
        for entry in &entries {
            self.hear_put(entry, now);
        }
        if let Some(cluster) = &mut self.clustered {
            cluster.scoped.listed(opened, &mut cluster.observer, clock::mark());
            if opened == cluster.scoped.opened() {
                cluster.presence.listed();
            }
            tell_return(cluster.answering.heard(now));
        }
    }

    pub(crate) fn hear_put(&mut self, entry: &Entry, now: Timestamp) {
        let key = entry.key.as_str();
        if let Some(node) = key.strip_prefix(SESSIONS).and_then(|node| NodeName::new(node).ok()) {
            self.session_seen(node, entry, false, now);
        } else if let Some(node) = self.said_to_be_there(key) {
            // Written by the revision that opened the session.
            let opened = Entry {
                create: entry.modified,
                ..entry.clone()
            };
            self.session_seen(node.clone(), &opened, false, now);
            let early = self.clustered.as_mut().and_then(|cluster| cluster.early.remove(&node));
            if let Some(early) = early.filter(|early| early.create == opened.create) {
                self.session_seen(node, &early, true, now);
            }
        } else if let Some(slot) = record::slot_of_key(key) {
            self.slot_seen(&slot, entry, now);
        } else if let Some(id) = key.strip_prefix(record::LIVES).and_then(|id| id.parse().ok()) {
            self.live_seen(id, entry, now);
        } else if let Some(id) = key.strip_prefix(record::INSTANCES).and_then(|id| id.parse().ok()) {
            self.assigned_seen(id, entry, now);
        } else if let Some(node) = key
            .strip_prefix(record::MEMBERS)
            .and_then(|node| NodeName::new(node).ok())
        {
            self.member_seen(node, entry, now);
        } else if let Some(node) = key
            .strip_prefix(record::HARDWARE)
            .and_then(|node| NodeName::new(node).ok())
        {
            if let Some(cluster) = &mut self.clustered {
                cluster.hardware_told(node, &entry.value);
            }
        } else if let Some(node) = key
            .strip_prefix(record::NODES)
            .and_then(|node| NodeName::new(node).ok())
        {
            if let Some(cluster) = &mut self.clustered {
                cluster.drained.insert(node.clone());
            }
            self.core.handle(Event::NodeDrained { node }, now);
        } else if let Some(service) = key
            .strip_prefix(record::REBALANCE)
            .and_then(|service| ServiceName::new(service).ok())
        {
            self.rebalance_seen(service, true, now);
        } else if let Some(slot) = record::park_of_key(key) {
            match serde_json::from_slice(&entry.value) {
                Ok(parked) => self.park_seen(slot, Some(&parked), now),
                Err(error) => tracing::error!(%slot, %error, "why it is parked cannot be read"),
            }
        } else if let Some(service) = key
            .strip_prefix(record::COUNTS)
            .and_then(|service| ServiceName::new(service).ok())
        {
            if let Some(cluster) = &mut self.clustered {
                cluster.counted.insert(service, entry.modified);
            }
        } else if let Some(version) = record::given_up_of_key(key) {
            self.given_up_seen(version, entry, now);
        } else if let Some(revision) = record::worked_of_key(key) {
            self.worked_seen(revision, now);
        } else if key.starts_with(record::DEEDS) {
            self.deeds_seen([entry]);
        } else if let Some(ask) = key.strip_prefix(record::ASKS) {
            self.asked(ask, entry, now);
        } else if let Some(answer) = key.strip_prefix(record::ANSWERS) {
            self.ask_answered(answer, entry);
        } else {
            match key {
                record::PAUSED => self.pause_seen(Some(&crate::pauses::read_pause(&entry.value)), now),
                record::CONTROLLER => self.controller_seen(entry, now),
                record::WHOLE => self.whole_told(true),
                record::CURRENT => self.file_seen(entry, now),
                record::META => self.meta_seen(entry),
                _ => {}
            }
        }
    }

    pub(crate) fn hear_delete(&mut self, key: &str, now: Timestamp) {
        let there = self.said_to_be_there(key);
        let Some(cluster) = &mut self.clustered else { return };
        let session = || key.strip_prefix(SESSIONS).and_then(|node| NodeName::new(node).ok());
        if let Some(node) = key
            .strip_prefix(record::HARDWARE)
            .and_then(|node| NodeName::new(node).ok())
        {
            cluster.hardware.remove(&node);
        } else if let Some(node) = there.or_else(session) {
            let ended = cluster.sessions.remove(&node).filter(|_| node != cluster.me);
            let silent = ended.and_then(|session| silence(cluster, &node, session.id, now));
            cluster.observer.gone(&node, clock::mark());
            cluster.expired.remove(&node);
            let other = node != cluster.me;
            if let Some(silent) = silent {
                self.core.handle(Event::Cluster(silent), now);
            }
            if other {
                let event = ClusterEvent::Session { node, session: None };
                self.core.handle(Event::Cluster(event), now);
            }
            self.consider_election(now);
        } else if let Some(id) = key.strip_prefix(record::LIVES).and_then(|id| id.parse().ok()) {
            cluster.lives.remove(&id);
            self.executor.forget_remote(&id);
        } else if let Some(id) = key.strip_prefix(record::INSTANCES).and_then(|id| id.parse().ok()) {
            cluster.assigned.remove(&id);
            cluster.published.remove(&id);
            self.executor.forget_remote(&id);
            self.core
                .handle(Event::Cluster(ClusterEvent::Unassigned { instance: id }), now);
        } else if let Some(node) = key
            .strip_prefix(record::MEMBERS)
            .and_then(|node| NodeName::new(node).ok())
        {
            cluster.members.remove(&node);
            let event = ClusterEvent::Member {
                node,
                runs_services: false,
                member: false,
                place: Place::default(),
            };
            self.core.handle(Event::Cluster(event), now);
        } else if let Some(node) = key
            .strip_prefix(record::NODES)
            .and_then(|node| NodeName::new(node).ok())
        {
            cluster.drained.remove(&node);
            let because = decisions::Reason::BackAsked;
            self.core.handle(Event::NodeBack { node, because }, now);
        } else if let Some(service) = key
            .strip_prefix(record::REBALANCE)
            .and_then(|service| ServiceName::new(service).ok())
        {
            self.rebalance_seen(service, false, now);
        } else if let Some(slot) = record::park_of_key(key) {
            self.park_seen(slot, None, now);
        } else if let Some(version) = record::given_up_of_key(key) {
            self.given_up_gone(&version, now);
        } else if key == record::PAUSED {
            self.pause_seen(None, now);
        } else if key == record::WHOLE {
            self.whole_told(false);
        } else if key == record::CONTROLLER {
            cluster.controller = None;
            self.consider_election(now);
        }
    }

    fn rebalance_seen(&mut self, service: ServiceName, asked: bool, now: Timestamp) {
        if let Some(cluster) = &mut self.clustered {
            if asked {
                cluster.rebalancing.insert(service.clone());
            } else {
                cluster.rebalancing.remove(&service);
            }
        }
        self.core.handle(Event::Rebalance { service, asked }, now);
    }

    /// What was taken by force is told on every node, for nothing but somebody's word keeps from two actives then.
    fn deeds_seen<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
        let Some(cluster) = &mut self.clustered else { return };
        let new = cluster.deeds.news(entries);
        if new.is_empty() {
            return;
        }
        let told = cluster.deeds.told();
        for deed in new.into_iter().filter(|deed| deed.what == "force") {
            let text = format!("{} {}", deed.by, deed.text);
            let because = format!("the operator asked node {} for it", deed.through);
            self.journal.tell(Severity::Error, "forced", text, because);
        }
        tokio::task::spawn_blocking(told);
    }

    /// Whose session a record says to be there, for an agent that is not told the sessions themselves.
    fn said_to_be_there(&self, key: &str) -> Option<NodeName> {
        let cluster = self
            .clustered
            .as_ref()
            .filter(|cluster| !cluster.scoped.scope().has_all());
        cluster.and_then(|_| NodeName::new(key.strip_prefix(session::THERE)?).ok())
    }

    fn renewals_seen(&mut self, node: &NodeName, changes: Vec<Change>, now: Timestamp) {
        for change in changes {
            match change {
                Change::Put(entry) => self.renewal_seen(node.clone(), Some(&entry), now),
                Change::Delete { .. } => self.renewal_seen(node.clone(), None, now),
            }
        }
    }

    /// A session as it was read or told apart. Which sessions there are is told by the watch that tells of slots, in one order with them.
    fn renewal_seen(&mut self, node: NodeName, entry: Option<&Entry>, now: Timestamp) {
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
    fn session_seen(&mut self, node: NodeName, entry: &Entry, apart: bool, now: Timestamp) {
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

    fn slot_seen(&mut self, slot: &model::SlotId, entry: &Entry, now: Timestamp) {
        if let Some(cluster) = &mut self.clustered {
            cluster.slots.insert(slot.clone(), entry.clone());
        }
        match known_slot(slot, entry) {
            Some(known) => self.core.handle(Event::Cluster(ClusterEvent::Slot(known)), now),
            None => tracing::error!(%slot, "its record cannot be read; nothing is done about it"),
        }
    }

    fn live_seen(&mut self, id: InstanceId, entry: &Entry, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let Ok(live) = serde_json::from_slice::<Live>(&entry.value) else {
            tracing::error!(instance = %id, "what is told of it cannot be read");
            return;
        };
        if live.node == cluster.me {
            // A write of ours that was given up may be carried out late, after a newer one: then the newer one is told again.
            let newer = cluster.published.get(&id).filter(|told| !says_the_same(told, &live));
            if let Some(newer) = newer.filter(|_| cluster.session == Some(live.session)).cloned() {
                let _ = cluster.publisher.send(Publish::Live(id, Box::new(newer)));
            }
            return;
        }
        self.executor.know_remote(&id, &live);
        let report = report_of(&id, &live);
        cluster.lives.insert(id, live);
        self.core.handle(Event::Cluster(ClusterEvent::Reported(report)), now);
    }

    #[expect(clippy::needless_pass_by_value, reason = "what was told is handed over")]
    fn assigned_seen(&mut self, id: InstanceId, entry: &Entry, now: Timestamp) {
        let Ok(assigned) = serde_json::from_slice::<record::Instance>(&entry.value) else {
            tracing::error!(instance = %id, "its record cannot be read");
            return;
        };
        let event = ClusterEvent::Assigned {
            instance: id.clone(),
            node: assigned.node.clone(),
            retiring: assigned.retiring,
        };
        if let Some(cluster) = &mut self.clustered {
            cluster.assigned.insert(id.clone(), assigned);
        }
        self.core.handle(Event::Cluster(event), now);
        // What its node said of it may have come first.
        let told = self.clustered.as_ref().and_then(|cluster| cluster.lives.get(&id));
        if let Some(report) = told.map(|live| report_of(&id, live)) {
            self.core.handle(Event::Cluster(ClusterEvent::Reported(report)), now);
        }
    }

    fn member_seen(&mut self, node: NodeName, entry: &Entry, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        let Ok(member) = serde_json::from_slice::<Member>(&entry.value) else {
            tracing::error!(%node, "its record cannot be read");
            return;
        };
        if node == cluster.me && member.machine != cluster.node.machine {
            let text = format!("another machine joined the cluster as {node}: this one is not part of it any more");
            let because = "two machines must not have one name; `understudy cluster remove` and `join` give it another"
                .to_owned();
            self.journal.tell(Severity::Error, "name-taken", text, because);
            self.ending = Some(crate::EXIT_REFUSED);
            return;
        }
        let (runs_services, place) = (member.runs_services, place_of(&member));
        cluster.members.insert(node.clone(), member);
        let event = ClusterEvent::Member {
            node,
            runs_services,
            member: true,
            place,
        };
        self.core.handle(Event::Cluster(event), now);
    }

    fn controller_seen(&mut self, entry: &Entry, now: Timestamp) {
        let Some(cluster) = &mut self.clustered else { return };
        match serde_json::from_slice::<record::Controller>(&entry.value) {
            Ok(controller) => {
                let news = cluster
                    .controller
                    .as_ref()
                    .is_none_or(|(_, known)| *known < entry.modified);
                let session = cluster.sessions.get(&controller.node).map(|session| session.id);
                if news {
                    let is_known = controller.node == cluster.me || session == Some(controller.session);
                    cluster.presence.controller(is_known);
                }
                cluster.controller = Some((controller, entry.modified));
            }
            Err(error) => tracing::error!(%error, "the controller's record cannot be read"),
        }
        self.consider_election(now);
    }

    /// The controller says that an agent of before has a session, or that none has.
    fn whole_told(&mut self, is_there: bool) {
        if let Some(cluster) = &mut self.clustered {
            cluster.presence.told(is_there);
        }
    }

    fn meta_seen(&mut self, entry: &Entry) {
        let Ok(meta) = serde_json::from_slice::<record::Meta>(&entry.value) else {
            return;
        };
        let ours = self.clustered.as_ref().map(|cluster| cluster.node.cluster_id.clone());
        if ours.is_some_and(|ours| ours != meta.cluster_id) {
            let text = "the store is of another cluster by now".to_owned();
            let because = format!("it says that it belongs to {}", meta.cluster_id);
            self.journal.tell(Severity::Error, "wrong-store", text, because);
            self.ending = Some(crate::EXIT_REFUSED);
            return;
        }
        self.core.raise_generation(meta.generation);
    }

    /// A file was put in force, here or elsewhere.
    fn file_seen(&mut self, entry: &Entry, now: Timestamp) {
        if entry.modified <= self.applied_at {
            return;
        }
        match serde_json::from_slice::<Applied>(&entry.value) {
            Ok(applied) => {
                crate::apply::in_force(self, applied, entry.modified);
                self.replay(now);
            }
            Err(error) => tracing::error!(%error, "the file in force cannot be read"),
        }
    }

    /// Tells the core once more what it could not place before a file declared it.
    pub(crate) fn replay(&mut self, now: Timestamp) {
        let Some(cluster) = &self.clustered else { return };
        let slots: Vec<_> = cluster
            .slots
            .iter()
            .filter_map(|(slot, entry)| known_slot(slot, entry))
            .map(ClusterEvent::Slot)
            .collect();
        let assigned = cluster.assigned.iter().map(|(id, assigned)| ClusterEvent::Assigned {
            instance: id.clone(),
            node: assigned.node.clone(),
            retiring: assigned.retiring,
        });
        let told = cluster
            .lives
            .iter()
            .map(|(id, live)| ClusterEvent::Reported(report_of(id, live)));
        let events: Vec<_> = slots.into_iter().chain(assigned).chain(told).collect();
        for event in events {
            self.core.handle(Event::Cluster(event), now);
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

    pub(crate) fn hear_later(&mut self, later: Later) {
        match later {
            Later::Wrote {
                what,
                error: Some(error),
            } => tracing::warn!(what, error, "could not be written"),
            Later::Wrote { .. } | Later::Closed => {}
            Later::Condemn(node) => self.condemn(&node),
        }
    }

    /// T4e: ends a session that has run out, unless a claim did so by now.
    fn condemn(&mut self, node: &NodeName) {
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

/// Where a member stands, and what it has to give.
pub(crate) fn place_of(member: &Member) -> Place {
    Place {
        zone: member.zone.clone(),
        cpu_percent: member.cpu_percent,
        memory_bytes: member.memory_bytes,
    }
}

fn tell_return(answers_again: bool) {
    if answers_again {
        tracing::info!("the store answers again");
    }
}

/// When the last renewal was seen of a session that is lost.
fn silence(cluster: &Clustered, node: &NodeName, session: Revision, now: Timestamp) -> Option<ClusterEvent> {
    let silent = cluster.observer.silent_for(node, clock::mark())?;
    let node = node.clone();
    let since = now - silent;
    Some(ClusterEvent::Silent { node, session, since })
}

fn end_session(store: Arc<dyn store::Store>, session: Session, ground: Ground, by: String) {
    tokio::spawn(async move {
        match session::condemn(store.as_ref(), &session, &ground, &by).await {
            Ok(ending) => tracing::info!(node = %session.node, ?ending, ?ground, "ended a session"),
            Err(error) => tracing::warn!(node = %session.node, %error, "cannot end a session that has run out"),
        }
    });
}

pub(super) fn report_of(id: &InstanceId, live: &Live) -> Report {
    Report {
        instance: id.clone(),
        node: live.node.clone(),
        session: live.session,
        run: live.run,
        phase: match live.phase.as_str() {
            "prepared" => InstancePhase::Prepared,
            "starting" => InstancePhase::Starting,
            "running" => InstancePhase::Running,
            "stopping" => InstancePhase::Stopping,
            "failed" => InstancePhase::Failed,
            _ => InstancePhase::Waiting,
        },
        health: live.health,
        acts: live.acts,
        promoted: live.promoted,
        served: live.served,
        followed: live.followed,
        stands_by: live
            .stands_by
            .clone()
            .map(|what| if what.is_empty() { Ok(()) } else { Err(what) }),
        proved: live
            .proved
            .clone()
            .map(|(number, what)| (number, if what.is_empty() { Ok(()) } else { Err(what) })),
        unfenced: live.unfenced.clone(),
        busy: live.busy,
        leaving: live.leaving,
        current: live.current,
        check_untried: live.check_untried,
        deaths: live.deaths,
        restarts: live.restarts,
        since: crate::clock::ago(live.since),
        because: live.because.clone(),
        last_failure: live.last_failure.clone(),
        last_end: live.last_end.clone(),
    }
}
