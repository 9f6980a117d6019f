//! One service: its slots, its instances, and what it hears.

mod commit;
mod elsewhere;
mod growth;
mod hears;
mod planned;
mod ready;
mod recover;

pub(crate) use planned::Change;

use crate::RouteTarget;
use crate::instance::{Instance, Instances, Phase};
use crate::slot::{self, Slot};
use crate::{Former, Reason, instance};
use model::{
    Epoch, Health, InstanceId, Millis, NodeName, Revision, Role, ServiceName, ServiceState, SlotId, StandbyMode,
    Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A transaction of the store has 128 comparisons at most. Of a service of more slots the first are compared: standbys follow one of those.
const SLOTS_COMPARED_MAX: usize = 100;

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    /// In a cluster: the node that we decide for.
    pub(crate) me: Option<NodeName>,
    pub(crate) declared: Arc<model::Service>,
    /// The declaration as which all of it worked last.
    pub(crate) worked: Option<Arc<model::Service>>,
    /// When what is declared was declared; of what was there when we came up that is not known.
    pub(crate) declared_at: Option<Timestamp>,
    /// What other nodes tell of their processes is of what is declared now, and not of the declaration before.
    pub(crate) others_know_the_file: bool,
    /// A process of it served and was well.
    pub(crate) served: bool,
    /// Some process here passed the check that is declared.
    pub(crate) check_is_proven: bool,
    /// Everything runs as declared.
    pub(crate) works: bool,
    pub(crate) removed: bool,
    pub(crate) slots: Vec<Slot>,
    pub(crate) instances: Instances,
    /// Of slots that were declared once, what the store has of them and who served last.
    pub(crate) former_slots: BTreeMap<usize, (slot::Record, Option<(InstanceId, Epoch)>)>,
    /// Who holds a slot that is declared no more, or did: of those that are too many it goes, and nobody who could take over.
    pub(crate) freed: BTreeSet<InstanceId>,
    /// Who is bound to which slot (I7: at most one).
    pub(crate) bound: BTreeMap<InstanceId, usize>,
    /// Which slots the store says somebody holds.
    pub(crate) held: BTreeMap<InstanceId, Vec<usize>>,
    /// In a cluster: instances that are no more, until the store says so too; and when that is asked for again.
    pub(crate) forgotten: BTreeMap<InstanceId, (Box<Instance>, Timestamp)>,
    pub(crate) numbers: u32,
    /// In a cluster: instances that we, as the controller, asked the store for and that it did not show yet.
    pub(crate) asked_for: BTreeMap<InstanceId, Asked>,
    /// The highest epoch of any of its slots: each claim gets a higher one, so that with it an instance knows its slot too.
    pub(crate) epoch: Epoch,
    /// An instance more than declared, for a rollout of a service without standbys.
    pub(crate) surge: bool,
    /// Replacements in a row that never became healthy.
    pub(crate) replacements: u32,
    pub(crate) route_revision: u64,
    /// What the proxy was told last; `None`: tell it again.
    pub(crate) route: Option<Vec<RouteTarget>>,
    pub(crate) unrouted: bool,
    /// The proxy may have an address of it.
    pub(crate) fronted: bool,
    /// Who is no target any more and may have clients left, and for how long they may go on.
    pub(crate) draining: BTreeMap<InstanceId, Millis>,
    pub(crate) write_failures: u32,
    /// Whether it was empty when the others were last told.
    pub(crate) told_empty: bool,
    pub(crate) state: ServiceState,
    pub(crate) state_since: Timestamp,
    pub(crate) state_because: Reason,
    pub(crate) told_state: bool,
    /// How it stood when an earlier agent was last there, and since when; until it is known how it stands now.
    pub(crate) stood: Option<Stood>,
    /// It was never up: that it is down is no news.
    pub(crate) is_new: bool,
    pub(crate) told_unplaced: bool,
    /// In a cluster: since when there have been more instances than declared, as far as we know.
    pub(crate) surplus_since: Option<Timestamp>,
    /// The operator wants its instances where they would be put today.
    pub(crate) rebalancing: bool,
    /// Of these, the one that is being moved.
    pub(crate) moving: Option<InstanceId>,
    /// When it is told again that nothing is left to be moved, until the wish is gone.
    pub(crate) rebalanced_again: Timestamp,
    /// It has to know how much runs on each node, to place instances.
    pub(crate) wants_load: bool,
    /// A rollout is under way, or was given up.
    pub(crate) rolling: Option<Rolling>,
    /// Whether what is declared is given up.
    pub(crate) giving_up: crate::given_up::GivingUp,
    /// Something was begun or completed that an earlier step of the reconciler has to see.
    pub(crate) look_again: bool,
    pub(crate) wakeup: Option<Timestamp>,
}

/// How a service stood when an earlier agent was last there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stood {
    pub(crate) state: ServiceState,
    pub(crate) since: Timestamp,
    /// Until then it comes to rest: what is missing a moment after an agent came back is no news.
    pub(crate) until: Timestamp,
}

/// A standby that is not running is looked over, and a standby check answers, within this as a rule.
const COMES_TO_REST: std::time::Duration = std::time::Duration::from_secs(2);

impl Stood {
    pub(crate) fn before(state: ServiceState, since: Timestamp, now: Timestamp) -> Self {
        Self {
            state,
            since: since.min(now),
            until: now + COMES_TO_REST,
        }
    }
}

/// An instance that the store was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) node: NodeName,
    /// When it is asked for again, under the same number and on the same node: what was given up may still be carried out.
    pub(crate) again: Timestamp,
}

/// How a rollout gets on.
#[derive(Debug, Clone)]
pub(crate) struct Rolling {
    pub(crate) begun: Timestamp,
    /// When it got on last.
    pub(crate) moved: Timestamp,
    /// It did not get on for long: since when that is said, and what it waits for.
    pub(crate) stuck: Option<(Timestamp, Reason)>,
    /// The slot that goes to a process of the new declaration, its epoch before, and who takes it.
    pub(crate) takes: Option<(usize, Epoch, InstanceId)>,
    /// How often such a slot came back.
    pub(crate) came_back: u32,
    /// Too often: since when nothing more is moved, and why.
    pub(crate) failed: Option<crate::reconcile::InVain>,
}

impl Service {
    pub(crate) fn new(name: ServiceName, declared: model::Service, now: Timestamp) -> Self {
        Self {
            name,
            me: None,
            declared: Arc::new(declared),
            worked: None,
            declared_at: None,
            others_know_the_file: true,
            served: false,
            check_is_proven: false,
            works: false,
            removed: false,
            slots: Vec::new(),
            instances: Instances::new(),
            former_slots: BTreeMap::new(),
            freed: BTreeSet::new(),
            bound: BTreeMap::new(),
            held: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            numbers: 0,
            asked_for: BTreeMap::new(),
            epoch: Epoch::default(),
            surge: false,
            replacements: 0,
            route_revision: 0,
            route: None,
            unrouted: false,
            fronted: false,
            draining: BTreeMap::new(),
            write_failures: 0,
            told_empty: true,
            state: ServiceState::Down,
            state_since: now,
            state_because: Reason::Declared,
            told_state: false,
            stood: None,
            is_new: true,
            told_unplaced: false,
            surplus_since: None,
            rebalancing: false,
            moving: None,
            rebalanced_again: Timestamp(0),
            wants_load: false,
            rolling: None,
            giving_up: crate::given_up::GivingUp::default(),
            look_again: false,
            wakeup: None,
        }
    }

    /// One of a cluster, seen from node `me`.
    pub(crate) fn seen_from(mut self, me: Option<NodeName>) -> Self {
        self.me = me;
        self
    }

    pub(crate) fn redeclare(&mut self, declared: model::Service, now: Timestamp) {
        self.removed = false;
        if *self.declared == declared {
            return;
        }
        // Another address or protocol: the front is made anew.
        if self.declared.listen != declared.listen || self.declared.protocol != declared.protocol {
            self.route = None;
        }
        let mode_changes = self.declared.standby_mode != declared.standby_mode;
        let check_ends = declared.check.is_none();
        let check_changes = self.declared.check != declared.check;
        if self.declared.on_promote != declared.on_promote {
            // What failed says nothing of another hook: nobody waits for the next try of that one.
            for slot in &mut self.slots {
                slot.failed_promotions = 0;
                slot.claim_after = Timestamp(0);
            }
        }
        self.declared_at = Some(now);
        self.others_know_the_file = false;
        self.served = false;
        self.check_is_proven &= !check_changes;
        self.declared = Arc::new(declared);
        if self.declared.listen.is_none() {
            self.trust_no_unfinished_promotion();
        }
        let me = self.me.clone();
        let mine = |instance: &&mut Instance| me.as_ref().is_none_or(|me| *me == instance.node);
        for instance in self.instances.values_mut().filter(mine) {
            // A cold standby is looked over, a warm one started.
            if mode_changes && let Phase::Prepared { .. } | Phase::Preparing = instance.phase {
                instance.set(Phase::Waiting { until: now }, Health::Down, now, Reason::Declared);
            }
            instance.unchecked &= !check_ends;
            instance.standby_unchecked &= self.declared.standby_check.is_some();
            // Nothing will ever say again that it is well.
            if check_ends && instance.health == Health::Unhealthy {
                instance.became_healthy(now);
                instance.because = Reason::LivesWithoutCheck {
                    after: instance::SETTLE,
                };
            }
            if check_changes && instance.phase == Phase::Running {
                instance.check_untried = (!check_ends).then_some(now);
                (instance.fails, instance.passes) = (0, 0);
            }
            instance.current = match &instance.launched_from {
                // What a cold one is started from is decided when it takes a slot, whatever it was started from while it was a warm one.
                _ if self.declared.standby_mode == StandbyMode::Cold && !instance.has_process() => true,
                Some(from) if instance.has_process() || instance.ran_earlier => from.launch() == self.declared.launch(),
                _ if !instance.has_process() => true,
                _ => instance.current,
            };
            instance.ran_earlier &= !instance.current;
            instance.last_end = None;
            // Who was given up under the old declaration deserves a try under the new one.
            if let Phase::Failed { .. } | Phase::Waiting { .. } = instance.phase {
                instance.failed_starts = 0;
                instance.set(Phase::Waiting { until: now }, Health::Down, now, Reason::Declared);
            }
        }
        self.replacements = 0;
        self.roll_again();
    }

    /// Without an address of the service clients may know those of the instances: whoever is being promoted may be written to
    /// already, whatever becomes of its hook.
    fn trust_no_unfinished_promotion(&mut self) {
        for slot in &mut self.slots {
            let slot::Phase::Promoting { holder } = &slot.phase else {
                continue;
            };
            if self.instances.get(holder).is_some_and(|instance| instance.acts) {
                slot.data = Some((holder.clone(), slot.epoch()));
            }
        }
    }

    pub(crate) fn remove(&mut self) {
        self.removed = true;
    }

    /// What must outlive it.
    pub(crate) fn former(&self) -> Former {
        Former {
            number: self.numbers,
            epoch: self.epoch,
            route_revision: self.route_revision,
        }
    }

    /// It was there before.
    pub(crate) fn go_on_from(&mut self, former: Former) {
        self.numbers = former.number;
        self.epoch = former.epoch;
        self.route_revision = former.route_revision;
    }

    pub(crate) fn numbers_used(&mut self, number: u32) {
        self.numbers = self.numbers.max(number);
    }

    pub(crate) fn refresh_bound(&mut self) {
        self.bound.clear();
        self.held.clear();
        for (index, slot) in self.slots.iter().enumerate() {
            if let Some(record) = slot.record.as_ref().filter(|record| record.held) {
                self.held.entry(record.holder.clone()).or_default().push(index);
            }
            // During a shared slot's handover the old holder still serves: it is bound until the new one does.
            let serving = slot.routed.iter().map(|(holder, _)| holder);
            let kept = slot.kept.iter().map(|kept| &kept.instance);
            let holders = slot.unclear.iter().chain(serving).chain(slot.bound()).chain(kept);
            self.bound.extend(holders.map(|holder| (holder.clone(), index)));
        }
    }

    pub(crate) fn is_cold(&self) -> bool {
        self.declared.standby_mode == StandbyMode::Cold
    }

    pub(crate) fn role(&self, id: &InstanceId) -> Role {
        let holds = |slot: &Slot| match &slot.phase {
            slot::Phase::Promoting { holder } | slot::Phase::Serving { holder } => holder == id,
            _ => false,
        };
        match self.bound.get(id).and_then(|ix| self.slots.get(*ix)) {
            Some(slot) if holds(slot) => Role::Active,
            _ => Role::Standby,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.state != ServiceState::Down
    }

    /// No process of it runs that is ours.
    pub(crate) fn is_empty(&self) -> bool {
        let runs = |instance: &Instance| self.is_mine(instance) && instance.has_process();
        !self.instances.values().any(runs)
    }

    /// No process of it runs and nothing is being written.
    pub(crate) fn is_stopped(&self) -> bool {
        let vacant = |slot: &Slot| slot.phase == slot::Phase::Vacant && slot.maybe_held().is_none();
        let settled = |slot: &Slot| vacant(slot) || (!self.is_driven(slot) && slot.attempt().is_none());
        self.is_empty() && self.slots.iter().all(settled)
    }

    /// Removed from the file, and nothing of it is left.
    pub(crate) fn is_finished(&self) -> bool {
        self.removed && self.instances.is_empty() && self.forgotten.is_empty() && self.is_stopped()
    }

    /// Drops what is known of an instance, and has its record removed. What is written to a store of several machines may be lost on
    /// the way: it is asked for again until the store says that the record is gone.
    pub(crate) fn forget(&mut self, id: InstanceId, because: Reason, cx: &mut crate::Context<'_>) {
        let gone = self.instances.remove(&id);
        let theirs = gone.as_ref().is_some_and(|gone| !self.is_mine(gone));
        let gone = gone.filter(|instance| instance.created && cx.peers.is_some());
        if let Some(gone) = gone {
            let again = cx.now + crate::peers::WRITE_AGAIN;
            self.forgotten.insert(id.clone(), (Box::new(gone), again));
        }
        let action = crate::Action::Forget {
            instance: id,
            theirs,
            judged_by: if theirs { self.judged_by() } else { Vec::new() },
        };
        cx.decide(action, because);
    }

    /// By which slots, as we know them, nobody needs the data of an instance that holds none.
    pub(crate) fn judged_by(&self) -> Vec<(SlotId, Revision)> {
        if self.removed || !self.follows() {
            return Vec::new();
        }
        let written = |slot: &Slot| slot.record.as_ref().map(|record| record.revision);
        let slots = self.slots.iter().take(SLOTS_COMPARED_MAX);
        slots
            .map(|slot| (slot.id.clone(), written(slot).unwrap_or_default()))
            .collect()
    }
}
