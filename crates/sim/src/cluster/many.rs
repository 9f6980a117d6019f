//! Very many nodes: an agent is told of those services alone of which it has instances.
//!
//! A core that knows 20,000 instances takes some 20 MiB, and a thousand of them do not fit into one machine. What a core knows of services of
//! which its node has no instance decides nothing but where its proxy sends clients, and there are no clients here: it is left out. The
//! controller knows everything. What agents would have been told is counted all the same.

use super::agent::Watch;
use super::hear::is_told;
use super::records::{Change, Changes, Entry, Key, NodeIx, Part, Value};
use super::world::World;
use decisions::{Event, Scope};
use model::{Cluster, InstanceId, ServiceName, SlotId};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Who is told of what.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    of: BTreeMap<ServiceName, BTreeSet<NodeIx>>,
    at: BTreeMap<NodeIx, BTreeSet<ServiceName>>,
}

impl World {
    /// The services that a node's core is told of.
    pub(crate) fn cluster_for(&self, ix: NodeIx) -> Cluster {
        let whole = |agent: &super::agent::Agent| *agent.clustered.scoped.scope() == Scope::Controller;
        let Some(interest) = &self.interest else {
            return self.cluster.clone();
        };
        if self.node(ix).agent.as_deref().is_some_and(whole) {
            return self.cluster.clone();
        }
        let own = interest.at.get(&ix).into_iter().flatten();
        let declared = own.filter_map(|name| Some((name.clone(), self.cluster.services.get(name)?.clone())));
        Cluster {
            name: self.cluster.name.clone(),
            services: declared.collect(),
            alerts: self.cluster.alerts.clone(),
            site: self.cluster.site.clone(),
        }
    }

    /// A file is put in force, on all nodes.
    pub(crate) fn put_in_force(&mut self, services: BTreeMap<ServiceName, model::Service>) {
        self.file += 1;
        self.cluster.services = services;
        for ix in 0..self.nodes.len() as NodeIx {
            self.apply_at(ix);
        }
    }

    pub(crate) fn apply_at(&mut self, ix: NodeIx) {
        let cluster = self.cluster_for(ix);
        self.handle(ix, Event::Applied(cluster));
        self.tell_given_up(ix);
        self.settle(ix);
    }

    /// As [`World::tell_apart`], to those who are concerned.
    pub(crate) fn tell_many(&mut self, changes: &Rc<Changes>) {
        self.tell_renewals(changes);
        let mut to: BTreeSet<NodeIx> = BTreeSet::new();
        let mut fresh = Vec::new();
        let mut all = false;
        for change in &changes.changes {
            let (Change::Put(Entry { key, .. }) | Change::Delete(key)) = change;
            if let (Key::Instance(id), Change::Put(entry)) = (key, change)
                && let Value::Instance { node, .. } = &*entry.value
            {
                fresh.push((*node, id.service().clone()));
            }
            let service = match key {
                Key::Session(_) | Key::Bind(_) | Key::Gone(_) | Key::Grave(..) => continue,
                Key::Instance(id) | Key::Live(id) => id.service(),
                Key::Slot(slot) => &slot.service,
                Key::Number(service) => service,
                Key::Ask(node, _) => {
                    to.insert(*node);
                    continue;
                }
                _ => {
                    all = true;
                    continue;
                }
            };
            let concerned = self.interest.as_ref().and_then(|interest| interest.of.get(service));
            to.extend(concerned.into_iter().flatten());
        }
        if all {
            to.extend(0..self.nodes.len() as NodeIx);
        }
        for (ix, service) in fresh {
            if self.begins_to_matter(ix, &service) {
                to.remove(&ix);
            }
        }
        for ix in to {
            if self.has_parts(ix) {
                self.send_parts(ix, changes);
            }
        }
        let told = |part| changes.changes.iter().any(|change| is_told(change, Some(part)));
        let parts = [Part::First, Part::Second]
            .into_iter()
            .filter(|part| told(*part))
            .count();
        if parts > 0 {
            let there = (0..self.nodes.len() as NodeIx).filter(|ix| self.has_parts(*ix)).count();
            self.tally.watched += (parts * there) as u64;
        }
    }

    /// Of a service that has an instance there for the first time all is told that is known. Returns whether it was.
    fn begins_to_matter(&mut self, ix: NodeIx, service: &ServiceName) -> bool {
        let Some(interest) = &mut self.interest else {
            return false;
        };
        if !interest.of.entry(service.clone()).or_default().insert(ix) {
            return false;
        }
        interest.at.entry(ix).or_default().insert(service.clone());
        if !self.has_parts(ix) {
            return false;
        }
        let cluster = self.cluster_for(ix);
        self.handle(ix, Event::Applied(cluster));
        self.tell_given_up(ix);
        let first = InstanceId::new(service.clone(), 0);
        let slot = SlotId {
            service: service.clone(),
            slot: 0,
        };
        let mut changes = Vec::new();
        for from in [Key::Instance(first.clone()), Key::Slot(slot), Key::Live(first)] {
            let of_it = |entry: &&Entry| match (&from, &entry.key) {
                (Key::Instance(_), Key::Instance(id)) | (Key::Live(_), Key::Live(id)) => id.service() == service,
                (Key::Slot(_), Key::Slot(slot)) => slot.service == *service,
                _ => false,
            };
            let entries = self.server.model.entries_from(&from).take_while(of_it);
            changes.extend(entries.cloned().map(Change::Put));
        }
        let revision = self.server.model.revision();
        self.send_parts(ix, &Rc::new(Changes { revision, changes }));
        true
    }

    fn has_parts(&self, ix: NodeIx) -> bool {
        let node = self.node(ix);
        let agent = node.agent.as_deref().filter(|_| node.up);
        let open = |watch: &Watch| watch.open.is_some();
        agent.is_some_and(|agent| agent.in_parts && open(&agent.watch) && open(&agent.second))
    }
}
