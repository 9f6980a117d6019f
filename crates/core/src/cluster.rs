//! A core that is one of several: what it hears of the others.

use crate::peers::{ClusterEvent, Hold, Peer, Peers, lost_because};
use crate::service::Service;
use crate::{Core, Decision, Node, NodeState, Note, NoteKind, Place, Reason, Report};
use model::{Epoch, FenceBy, InstanceId, NodeName, Revision, ServiceName, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Core {
    /// A core that decides for the instances on node `me` only, and knows of others what it is told by [`ClusterEvent`]s. In the
    /// failover order each rank waits `stagger` for the one before it.
    pub fn clustered(seed: u64, attempt: u64, generation: u32, me: NodeName, stagger: Duration) -> Self {
        let mut core = Self::new(seed, attempt, generation, [me.clone()]);
        core.peers = Some(Peers {
            me,
            session: None,
            still: false,
            controller: false,
            others: BTreeMap::new(),
            proven: BTreeMap::new(),
            stagger,
        });
        core
    }

    /// The claims of this core are above every epoch of an earlier generation from now on.
    pub fn raise_generation(&mut self, generation: u32) {
        self.generation = self.generation.max(generation);
    }

    /// What we tell others of an instance of ours; its session is still to be filled in.
    pub fn report_of(&self, id: &InstanceId, now: Timestamp) -> Option<Report> {
        self.services.get(id.service())?.report_of(id, now)
    }

    /// Our instances of which there may be news since this was last asked, and the services that they are of.
    pub fn take_touched(&mut self) -> (Vec<InstanceId>, BTreeSet<ServiceName>) {
        let touched = std::mem::take(&mut self.touched);
        let own = |service: &Service| {
            let mine = service.instances.values().filter(|instance| service.is_mine(instance));
            mine.map(|instance| instance.id.clone()).collect::<Vec<_>>()
        };
        let services = touched.iter().filter_map(|name| self.services.get(name));
        (services.flat_map(own).collect(), touched)
    }

    /// There is news of a service's instances that others know better than we do.
    pub fn tell_of(&mut self, service: &ServiceName) {
        if self.peers.is_some() {
            self.touched.insert(service.clone());
        }
    }

    /// Actives of exclusive services that act here, are armed, and stay where they are: since which epoch.
    pub fn acting(&self) -> Vec<(InstanceId, Epoch)> {
        if self.paused.is_some() || self.shutdown.is_some() {
            return Vec::new();
        }
        let exclusive = self.services.values().filter(|service| service.declared.exclusive);
        let acting = exclusive.flat_map(|service| {
            let armed = self.peers.is_some() || service.declared.address.is_some();
            let here = service.slots.iter().filter(move |slot| {
                let is_armed = slot.armed == Some((slot.epoch(), true));
                slot.planned.is_none() && service.is_driven(slot) && (is_armed || !armed)
            });
            here.filter_map(|slot| Some((slot.serving()?.clone(), slot.epoch())))
        });
        acting.collect()
    }

    /// Looks at everything again, and tells all of our instances again.
    pub fn tell_all(&mut self) {
        self.touched.extend(self.services.keys().cloned());
    }

    /// Whether one of our instances holds a slot, or is about to: others must notice our end soon.
    pub fn holds_slots(&self) -> bool {
        let holds = |slot: &crate::slot::Slot| slot.driven.is_some() || slot.attempt().is_some();
        self.services.values().any(|service| service.slots.iter().any(holds))
    }

    /// Whether we place and replace instances.
    pub fn is_controller(&self) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.controller)
    }

    /// The node of an instance, if it is known.
    pub fn node_of(&self, id: &InstanceId) -> Option<NodeName> {
        let instance = self.services.get(id.service())?.instances.get(id)?;
        Some(instance.node.clone())
    }

    /// Exclusive instances of ours that may act now, whatever the store says: but for those that stand still until their slot is bound to our
    /// next session.
    pub fn acting_exclusive(&self) -> Vec<InstanceId> {
        let acting = |service: &Service| {
            let acts = service
                .instances
                .values()
                .filter(|instance| service.is_mine(instance) && instance.acts && instance.has_process())
                .filter(|instance| !service.is_kept(&instance.id));
            acts.map(|instance| instance.id.clone()).collect::<Vec<_>>()
        };
        let exclusive = self.services.values().filter(|service| service.declared.exclusive);
        exclusive.flat_map(acting).collect()
    }

    /// Whether an instance stands still by our own wish: a check that it fails says nothing of it.
    pub(crate) fn stands_still(&self, id: &InstanceId) -> bool {
        let still = self.peers.as_ref().is_some_and(|peers| peers.still);
        let service = self
            .services
            .get(id.service())
            .filter(|service| service.declared.exclusive && (still || service.is_kept(id)));
        let instance = service.and_then(|service| service.instances.get(id));
        instance.is_some_and(|instance| instance.acts)
    }

    /// Nodes that hold slots of exclusive services.
    pub fn exclusive_nodes(&self) -> BTreeSet<NodeName> {
        let exclusive = self.services.values().filter(|service| service.declared.exclusive);
        let records = exclusive.flat_map(|service| service.slots.iter().filter_map(|slot| slot.record.as_ref()));
        records
            .filter(|record| record.held)
            .map(|record| record.node.clone())
            .collect()
    }

    /// Lost nodes whose slots nobody takes before it is known that they write no more: each with the latest session under which one is held.
    pub fn unproven_nodes(&self) -> BTreeMap<NodeName, Revision> {
        let Some(peers) = &self.peers else {
            return BTreeMap::new();
        };
        let mut unproven = BTreeMap::new();
        let services = self.services.values();
        let declared = services.filter(|service| service.declared.fence == FenceBy::Power);
        for record in declared.flat_map(|service| service.slots.iter().filter_map(|slot| slot.record.as_ref())) {
            let session = record.session.unwrap_or_default();
            if record.held && peers.hold_proven(&record.node, session) == Hold::Unproven {
                let latest: &mut Revision = unproven.entry(record.node.clone()).or_default();
                *latest = session.max(*latest);
            }
        }
        unproven
    }

    /// Services of which a slot is held at a node, and which nobody takes before it is known that the node writes no more.
    pub fn fenced_by_power_at(&self, node: &NodeName) -> BTreeSet<ServiceName> {
        let services = self.services.iter();
        let at = |service: &Service| {
            let mut records = service.slots.iter().filter_map(|slot| slot.record.as_ref());
            service.declared.fence == FenceBy::Power && records.any(|record| record.held && record.node == *node)
        };
        services
            .filter(|(_, service)| at(service))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// At which node a slot is held, as far as we know.
    pub fn holder_node(&self, service: &ServiceName, slot: u32) -> Option<NodeName> {
        let service = self.services.get(service)?;
        let record = service.slots.get(slot as usize)?.record.as_ref()?;
        record.held.then(|| record.node.clone())
    }

    pub(crate) fn hear_of_cluster(&mut self, event: ClusterEvent, now: Timestamp) {
        if let Some(held) = self.held.as_mut().filter(|_| event.is_asked()) {
            held.asks.push(event);
            return;
        }
        match event {
            ClusterEvent::OwnSession(session) => self.own_session(session, false, now),
            ClusterEvent::OwnSessionKept => self.own_session(None, true, now),
            ClusterEvent::Still(still) => {
                if let Some(peers) = &mut self.peers {
                    peers.still = still;
                    // What was not placed meanwhile is now.
                    if !still && peers.controller {
                        self.reconcile_all(now);
                    }
                }
            }
            ClusterEvent::Session { node, session } => self.session(node, session, now),
            ClusterEvent::Silent { node, session, since } => {
                if let Some(peer) = self.peer(&node) {
                    peer.silent = Some((session, since));
                }
            }
            ClusterEvent::Expired {
                node,
                session,
                modified,
            } => {
                if let Some(peer) = self.peer(&node).filter(|peer| peer.session == Some(session)) {
                    peer.expired = Some(modified);
                    self.judge_node(&node, Reason::SessionExpired { node: node.clone() }, now);
                    self.reconcile_of(&node, now);
                }
            }
            ClusterEvent::Proven { node, session } => {
                let Some(peers) = &mut self.peers else { return };
                let proven = peers.proven.entry(node.clone()).or_default();
                if *proven < session {
                    *proven = session;
                    self.reconcile_of(&node, now);
                }
            }
            ClusterEvent::Ended {
                node,
                session,
                in_order,
            } => {
                if let Some(peer) = self.peer(&node)
                    && peer.ended.is_none_or(|(known, _)| known < session)
                {
                    peer.ended = Some((session, in_order));
                }
            }
            ClusterEvent::Renewed { node } => {
                if let Some(peer) = self.peer(&node).filter(|peer| peer.expired.is_some()) {
                    peer.expired = None;
                    self.judge_node(&node, Reason::SessionOpen { node: node.clone() }, now);
                    self.reconcile_of(&node, now);
                }
            }
            ClusterEvent::Controller(controller) => {
                if let Some(peers) = &mut self.peers {
                    peers.controller = controller;
                }
                if !controller {
                    // Elected anew, none of it is carried out any more.
                    self.services.values_mut().for_each(|service| service.asked_for.clear());
                }
                self.reconcile_all(now);
            }
            ClusterEvent::Member {
                node,
                runs_services,
                member,
                place,
            } => self.member(node, runs_services, member.then_some(place), now),
            ClusterEvent::Slot(known) => {
                let name = known.slot.service.clone();
                if let Some(service) = self.services.get_mut(&name) {
                    if service.slot_seen(known, now) {
                        self.reconcile(&name, now);
                    }
                } else {
                    let former = self.former.entry(name).or_default();
                    former.epoch = former.epoch.max(known.epoch);
                }
            }
            ClusterEvent::Assigned {
                instance,
                node,
                retiring,
                placed,
            } => {
                let name = instance.service().clone();
                let mine = self.peers.as_ref().is_some_and(|peers| peers.me == node);
                let me = self.peers.as_ref().map(|peers| peers.me.clone());
                if !self.services.contains_key(&name) {
                    if !mine {
                        return;
                    }
                    let left_over = Service::left_over(name.clone(), now).seen_from(me);
                    self.services.insert(name.clone(), left_over);
                }
                self.with_service(&name, now, |service, _| {
                    service.assigned(instance, node, (retiring, placed), now)
                });
            }
            ClusterEvent::Unassigned { instance } => {
                let name = instance.service().clone();
                self.with_service(&name, now, |service, _| service.unassigned(&instance));
            }
            ClusterEvent::Reported(report) => {
                let name = report.instance.service().clone();
                self.with_service(&name, now, |service, _| service.reported(report));
            }
            ClusterEvent::Left { instance, by } => {
                let name = instance.service().clone();
                self.with_service(&name, now, |service, _| service.left(&instance, by));
            }
            ClusterEvent::RenewAsked { instance } => {
                let name = instance.service().clone();
                self.with_service(&name, now, |service, out| service.renew_asked(&instance, now, out));
            }
            ClusterEvent::ProofAsked { instance, number } => {
                let name = instance.service().clone();
                self.with_service(&name, now, |service, out| {
                    service.proof_asked(&instance, number, now, out)
                });
            }
            ClusterEvent::MoveAsked {
                service: name,
                slot,
                to,
                drain,
            } => self.with_service(&name, now, |service, out| {
                service.move_asked(slot as usize, to, drain, now, out)
            }),
        }
    }

    fn with_service(
        &mut self,
        name: &ServiceName,
        now: Timestamp,
        hear: impl FnOnce(&mut Service, &mut std::collections::VecDeque<Decision>) -> bool,
    ) {
        if let Some(service) = self.services.get_mut(name)
            && hear(service, &mut self.decisions)
        {
            self.reconcile(name, now);
        }
    }

    fn peer(&mut self, node: &NodeName) -> Option<&mut Peer> {
        self.peers.as_mut()?.others.get_mut(node)
    }

    fn own_session(&mut self, session: Option<Revision>, keeps: bool, now: Timestamp) {
        let Some(peers) = &mut self.peers else { return };
        if peers.session == session {
            // What waited for the next session is ended after all.
            if session.is_none() && !keeps {
                for service in self.services.values_mut() {
                    service.fence(now, &mut self.decisions);
                }
                self.reconcile_all(now);
            }
            return;
        }
        peers.session = session;
        peers.still = false;
        let me = peers.me.clone();
        let lost = session.is_none();
        if lost {
            peers.controller = false;
            for service in self.services.values_mut() {
                // It was asked for under this session, and is not carried out any more.
                service.asked_for.clear();
                match keeps {
                    true => service.keep(now, &mut self.decisions),
                    false => service.fence(now, &mut self.decisions),
                }
            }
            let note = Note::about_node(NoteKind::NodeLost, me);
            self.decisions.push_back(Decision::note(note, Reason::OwnSessionLost));
        } else {
            let because = Reason::SessionOpen { node: me.clone() };
            let note = Note::about_node(NoteKind::NodeBack, me.clone());
            self.decisions.push_back(Decision::note(note, because.clone()));
            if let Some(node) = self.nodes.get_mut(&me) {
                (node.since, node.because) = (now, because);
            }
        }
        self.reconcile_all(now);
    }

    #[expect(clippy::needless_pass_by_value, reason = "what was told is handed over")]
    fn session(&mut self, node: NodeName, session: Option<Revision>, now: Timestamp) {
        let Some(peers) = self.peers.as_mut().filter(|peers| peers.me != node) else {
            return;
        };
        let peer = peers.others.entry(node.clone()).or_default();
        if peer.session == session && peer.expired.is_none() {
            return;
        }
        peer.session = session;
        peer.expired = None;
        if session.is_some() {
            // How an earlier one ended says nothing of the end of this one.
            peer.ended = peer.ended.filter(|(ended, _)| session <= Some(*ended));
        }
        let because = match session {
            Some(_) => Reason::SessionOpen { node: node.clone() },
            None => lost_because(peers, &node),
        };
        self.judge_node(&node, because, now);
        self.reconcile_of(&node, now);
    }

    #[expect(clippy::needless_pass_by_value, reason = "what was told is handed over")]
    fn member(&mut self, node: NodeName, runs_services: bool, place: Option<Place>, now: Timestamp) {
        let Some(peers) = &mut self.peers else { return };
        if peers.me != node {
            if place.is_some() {
                peers.others.entry(node.clone()).or_default().runs_services = runs_services;
            } else {
                peers.others.remove(&node);
            }
        }
        if let Some(place) = place.filter(|_| runs_services) {
            let because = lost_because(peers, &node);
            let state = if peers.me == node || peers.lives(&node) {
                NodeState::Online
            } else {
                NodeState::Offline
            };
            let fresh = || Node {
                state,
                since: now,
                because,
                drained: false,
                place: Place::default(),
            };
            self.nodes.entry(node.clone()).or_insert_with(fresh).place = place;
        } else {
            self.nodes.remove(&node);
        }
        self.reconcile_of(&node, now);
    }

    /// Offline without a session, drained by the operator's wish, else online.
    pub(crate) fn judge_node(&mut self, name: &NodeName, because: Reason, now: Timestamp) {
        let lives = self
            .peers
            .as_ref()
            .is_none_or(|peers| peers.me == *name || peers.lives(name));
        let Some(node) = self.nodes.get_mut(name) else {
            return;
        };
        let state = match (lives, node.drained) {
            (false, _) => NodeState::Offline,
            (true, true) => NodeState::Drained,
            (true, false) => NodeState::Online,
        };
        if node.state == state {
            return;
        }
        node.state = state;
        node.since = now;
        node.because = because.clone();
        let kind = match state {
            NodeState::Online => NoteKind::NodeBack,
            NodeState::Drained => NoteKind::NodeDrained,
            NodeState::Offline => NoteKind::NodeLost,
        };
        self.decisions
            .push_back(Decision::note(Note::about_node(kind, name.clone()), because));
    }
}
