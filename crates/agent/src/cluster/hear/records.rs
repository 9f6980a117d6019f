//! What single records of the store say: slots, instances, members, the controller, the file in force.

use crate::agent::Agent;
use crate::cluster::publish::Publish;
use crate::cluster::tell::says_the_same;
use crate::slots::known_slot;
use api::Severity;
use api::record::{self, Applied, Live, Member};
use decisions::{ClusterEvent, Event, InstancePhase, Place, Report};
use model::{InstanceId, NodeName, ServiceName, Timestamp};
use store::Entry;
use store::session;

impl Agent {
    pub(super) fn rebalance_seen(&mut self, service: ServiceName, asked: bool, now: Timestamp) {
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
    pub(super) fn deeds_seen<'a>(&mut self, entries: impl IntoIterator<Item = &'a Entry>) {
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
    pub(super) fn said_to_be_there(&self, key: &str) -> Option<NodeName> {
        let cluster = self
            .clustered
            .as_ref()
            .filter(|cluster| !cluster.scoped.scope().has_all());
        cluster.and_then(|_| NodeName::new(key.strip_prefix(session::THERE)?).ok())
    }

    pub(super) fn slot_seen(&mut self, slot: &model::SlotId, entry: &Entry, now: Timestamp) {
        if let Some(cluster) = &mut self.clustered {
            cluster.slots.insert(slot.clone(), entry.clone());
        }
        match known_slot(slot, entry) {
            Some(known) => self.core.handle(Event::Cluster(ClusterEvent::Slot(known)), now),
            None => tracing::error!(%slot, "its record cannot be read; nothing is done about it"),
        }
    }

    pub(super) fn live_seen(&mut self, id: InstanceId, entry: &Entry, now: Timestamp) {
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
    pub(super) fn assigned_seen(&mut self, id: InstanceId, entry: &Entry, now: Timestamp) {
        let Ok(assigned) = serde_json::from_slice::<record::Instance>(&entry.value) else {
            tracing::error!(instance = %id, "its record cannot be read");
            return;
        };
        let event = ClusterEvent::Assigned {
            instance: id.clone(),
            node: assigned.node.clone(),
            retiring: assigned.retiring,
            placed: entry.create,
        };
        if let Some(cluster) = &mut self.clustered {
            cluster.assigned.insert(id.clone(), (assigned, entry.create));
        }
        self.core.handle(Event::Cluster(event), now);
        // What its node said of it may have come first.
        let told = self.clustered.as_ref().and_then(|cluster| cluster.lives.get(&id));
        if let Some(report) = told.map(|live| report_of(&id, live)) {
            self.core.handle(Event::Cluster(ClusterEvent::Reported(report)), now);
        }
    }

    pub(super) fn member_seen(&mut self, node: NodeName, entry: &Entry, now: Timestamp) {
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

    pub(super) fn controller_seen(&mut self, entry: &Entry, now: Timestamp) {
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
    pub(super) fn whole_told(&mut self, is_there: bool) {
        if let Some(cluster) = &mut self.clustered {
            cluster.presence.told(is_there);
        }
    }

    pub(super) fn meta_seen(&mut self, entry: &Entry) {
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
    pub(super) fn file_seen(&mut self, entry: &Entry, now: Timestamp) {
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
}

/// Where a member stands, and what it has to give.
pub(crate) fn place_of(member: &Member) -> Place {
    Place {
        zone: member.zone.clone(),
        cpu_percent: member.cpu_percent,
        memory_bytes: member.memory_bytes,
    }
}

pub(crate) fn report_of(id: &InstanceId, live: &Live) -> Report {
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
        not_promoted: live.not_promoted.as_ref().map(|failed| decisions::NotPromoted {
            slot: failed.slot,
            epoch: failed.epoch,
            what: failed.what.clone(),
        }),
    }
}
