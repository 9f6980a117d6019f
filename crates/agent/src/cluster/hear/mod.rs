//! What the store and the session say, for the decisions.

mod records;
mod sessions;

pub(super) use self::records::{place_of, report_of};
use self::sessions::{silence, tell_return};
use super::mirror::{Apart, Seen};
use super::{Later, clock};
use crate::agent::Agent;
use crate::slots::known_slot;
use api::record::{self};
use decisions::{ClusterEvent, Event, Place};
use model::{NodeName, ServiceName, Timestamp};
use std::collections::BTreeSet;
use store::session::{self, SESSIONS};
use store::{Change, Entry};

impl Agent {
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
                // How a session ended is written with its end, and told after it: it is why.
                for change in &changes {
                    if let Change::Put(entry) = change {
                        self.tell_how_it_ended(entry, now);
                    }
                }
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

    /// Whether a node gave its session back: then it is no loss.
    fn tell_how_it_ended(&mut self, entry: &Entry, now: Timestamp) {
        let grave = entry.key.strip_prefix(session::GRAVES);
        let Some((node, session)) = grave.and_then(super::power::session_of_grave) else {
            return;
        };
        let cause = serde_json::from_slice::<session::Grave>(&entry.value).map(|grave| grave.cause);
        let in_order = matches!(cause, Ok(session::Cause::Closed));
        let event = ClusterEvent::Ended {
            node,
            session,
            in_order,
        };
        self.core.handle(Event::Cluster(event), now);
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
            .strip_prefix(store::fence::FENCES)
            .and_then(|node| NodeName::new(node).ok())
        {
            self.fence_seen(node, entry, now);
        } else if let Some(node) = key
            .strip_prefix(record::DEVICE_CHECKS)
            .and_then(|node| NodeName::new(node).ok())
        {
            self.device_check_seen(&node, entry);
        } else if let Some(grave) = key.strip_prefix(session::GRAVES) {
            self.grave_seen(grave, entry, now);
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
        } else if let Some(node) = key
            .strip_prefix(store::fence::FENCES)
            .and_then(|node| NodeName::new(node).ok())
        {
            cluster.power.fencer.forget(&node);
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

    /// Tells the core once more what it could not place before a file declared it.
    pub(crate) fn replay(&mut self, now: Timestamp) {
        let Some(cluster) = &self.clustered else { return };
        let slots: Vec<_> = cluster
            .slots
            .iter()
            .filter_map(|(slot, entry)| known_slot(slot, entry))
            .map(ClusterEvent::Slot)
            .collect();
        let assigned = cluster.assigned.iter();
        let assigned = assigned.map(|(id, (assigned, placed))| ClusterEvent::Assigned {
            instance: id.clone(),
            node: assigned.node.clone(),
            retiring: assigned.retiring,
            placed: *placed,
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

    pub(crate) fn hear_later(&mut self, later: Later) {
        match later {
            Later::Wrote {
                what,
                error: Some(error),
            } => tracing::warn!(what, error, "could not be written"),
            Later::Wrote { .. } | Later::Closed => {}
            Later::Took { number, ask } => self.do_ask(*ask, number, crate::clock::now()),
            Later::Condemn(node) => self.condemn(&node),
            Later::Power(news) => self.hear_power(news, crate::clock::now()),
        }
    }
}
