//! Processes of an earlier declaration, and actives on nodes that are emptied, are moved on one by one.
//!
//! ```text
//! under way ──▶ stuck (nothing moved for half a minute; goes on by itself if it can) ──▶ under way … done
//!     └──▶ in vain: who tries the new declaration was given up, or took a slot and did not keep it, twice ──▶ given up, once that
//!          is written. What ran before serves on, and who tried the new one goes back to it, until another file is applied or somebody
//!          asks for another try.
//! ```

use crate::instance::{Instance, Phase};
use crate::peers::WRITE_AGAIN;
use crate::service::{Change, Rolling, Service};
use crate::view::{RolloutState, RolloutView};
use crate::{Action, Context, Decision, Note, NoteKind, Reason, Trial};
use model::{InstanceId, Timestamp};
use std::time::Duration;

/// A rollout that did not get on for this long is told to be stuck. An instance that starts slowly has its time.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// So often a slot may come back from a process of the new declaration: each time clients wait.
const TAKEOVERS_TRIED: u32 = 2;

/// A node that was asked to move something on is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// And to have something go back, which a node of before never does.
const ASK_BACK_AGAIN: Duration = Duration::from_secs(60);

/// Why a version is not tried any more.
#[derive(Debug, Clone)]
pub(crate) struct InVain {
    pub(crate) since: Timestamp,
    pub(crate) because: Reason,
    pub(crate) tries: u32,
    pub(crate) instance: InstanceId,
    pub(crate) trial: Trial,
}

impl Service {
    /// One step of a rollout, or of emptying a node: one instance at a time, and only from a state that can bear it.
    pub(super) fn move_on(&mut self, cx: &mut Context<'_>) {
        if !cx.places() {
            return;
        }
        let outdated: Vec<InstanceId> = self
            .instances
            .values()
            .filter(|i| !i.current && i.is_alive() && !i.retiring)
            .map(|i| i.id.clone())
            .collect();
        self.tell_rolling(cx);
        self.judge_takeover();
        self.send_back(cx);
        let misplaced = (0..self.slots.len()).find(|index| self.is_misplaced(*index, cx));
        if outdated.is_empty() && misplaced.is_none() {
            self.rebalance(cx);
            return;
        }
        if !self.is_calm(cx) {
            return;
        }
        let goes_on = !self.is_given_up() && self.in_vain().is_none();
        // A broken one loses nothing by being replaced first.
        let broken = |id: &&InstanceId| {
            let unfit = |instance: &Instance| instance.phase == Phase::Running && !instance.is_fit();
            goes_on && !self.bound.contains_key(*id) && self.instances.get(*id).is_some_and(unfit)
        };
        if let Some(broken) = outdated.iter().find(broken) {
            self.renew(broken, Reason::RolloutNeeds, cx);
            return;
        }
        if !self.is_settled(cx) {
            return;
        }
        if let Some(index) = misplaced {
            let stays = |id: &InstanceId| self.instances.get(id).is_some_and(|to| !self.shall_leave(to));
            let to = self.candidates(index, cx).into_iter().find(stays);
            if to.is_some() {
                self.move_slot(index, Change::unasked(to, Reason::DrainAsked), cx);
            }
            return;
        }
        if !goes_on {
            return;
        }
        if let Some(standby) = outdated.iter().find(|id| !self.bound.contains_key(id)) {
            self.renew(standby, Reason::RolloutNeeds, cx);
        } else if let Some(active) = outdated.first() {
            self.renew_active(active, cx);
        }
    }

    fn renew(&mut self, id: &InstanceId, because: Reason, cx: &mut Context<'_>) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        if self.me.as_ref().is_none_or(|me| *me == instance.node) {
            instance.renewing = true;
            self.rolls_on(cx.now);
            self.stop(id, because, cx.now, cx.out);
        } else if cx.now >= instance.ask_again {
            let pause = if because == Reason::GoesBack {
                ASK_BACK_AGAIN
            } else {
                ASK_AGAIN
            };
            instance.ask_again = cx.now + pause;
            let (instance, node) = (id.clone(), instance.node.clone());
            self.rolls_on(cx.now);
            cx.decide(Action::AskRenew { instance, node }, because);
        }
    }

    /// Of a version that took slots and did not keep them nobody stands by: one after the other goes back to what worked, so that who could
    /// take over can also serve.
    fn send_back(&mut self, cx: &mut Context<'_>) {
        // One whose node is lost or drained may be so for long.
        let changes = |instance: &Instance| {
            let phase = &instance.phase;
            let changes = matches!(phase, Phase::Starting { .. } | Phase::Ended | Phase::Waiting { .. });
            changes && !instance.retiring && cx.online(&instance.node)
        };
        if !self.stands_back() || !self.is_calm(cx) || self.instances.values().any(changes) {
            return;
        }
        let stands_by = |instance: &&Instance| {
            let free = !self.bound.contains_key(&instance.id) && !instance.retiring;
            let asked = cx.now < instance.ask_again;
            free && instance.current && instance.phase == Phase::Running && cx.online(&instance.node) && !asked
        };
        let id = self
            .instances
            .values()
            .find(stands_by)
            .map(|instance| instance.id.clone());
        if let Some(id) = id {
            self.renew(&id, Reason::GoesBack, cx);
        }
    }

    /// Moves a slot on: if another node holds it, that is asked to.
    fn move_slot(&mut self, index: usize, change: Change, cx: &mut Context<'_>) {
        if self.is_driven(&self.slots[index]) {
            self.begin_planned(index, change, cx.now, cx.out);
            return;
        }
        let slot = &mut self.slots[index];
        let Some(record) = slot.record.as_ref().filter(|_| cx.now >= slot.ask_again) else {
            return;
        };
        let action = Action::AskMove {
            slot: slot.id.clone(),
            node: record.node.clone(),
            to: change.to,
            drain: change.because == Reason::DrainAsked,
        };
        slot.ask_again = cx.now + ASK_AGAIN;
        cx.decide(action, change.because);
    }

    /// Its slot goes to a new standby first; a service without standbys gets one more instance for that time.
    fn renew_active(&mut self, id: &InstanceId, cx: &mut Context<'_>) {
        let Some(index) = self.bound.get(id).copied() else {
            return;
        };
        let current = |id: &InstanceId| self.instances.get(id).is_some_and(|instance| instance.current);
        if let Some(to) = self.candidates(index, cx).into_iter().find(current) {
            self.rolls_on(cx.now);
            let epoch = self.slots[index].epoch();
            if let Some(rolling) = &mut self.rolling {
                rolling.takes = Some((index, epoch, to.clone()));
            }
            self.move_slot(index, Change::unasked(Some(to), Reason::RolloutNeeds), cx);
        } else if self.declared.standby == 0 && !self.surge {
            self.surge = true;
            self.look_again = true;
        } else if self.told_unplaced && self.instances.keys().all(|id| self.bound.contains_key(id)) {
            // There is no room for another one: the only way is through a moment without it.
            self.renew(id, Reason::RolloutNeeds, cx);
        }
    }

    fn is_misplaced(&self, index: usize, cx: &Context<'_>) -> bool {
        let holder = self.slots[index]
            .serving()
            .and_then(|holder| self.instances.get(holder));
        holder.is_some_and(|holder| !cx.online(&holder.node) || self.shall_leave(holder))
    }

    /// Everybody who could take over does so if asked.
    fn is_settled(&self, cx: &Context<'_>) -> bool {
        let counts = |i: &&Instance| {
            (i.current || !i.is_alive() || matches!(i.phase, Phase::Starting { .. })) && cx.online(&i.node)
        };
        let mut there = self.instances.values().filter(counts);
        there.all(|i| self.bound.contains_key(&i.id) || self.readiness(i).is_ok())
    }

    /// Where the operator asked for it, one instance at a time goes where it would be put today: standbys first, then actives, which hand
    /// their slots over before. Each gets a replacement first.
    fn rebalance(&mut self, cx: &mut Context<'_>) {
        if !self.rebalancing {
            return;
        }
        if let Some(moving) = &self.moving {
            let there = self.instances.get(moving).is_some_and(|instance| !instance.retiring);
            if there && !self.told_unplaced {
                return;
            }
            self.moving = None;
            self.look_again = true;
        }
        if !self.is_calm(cx) || !self.is_settled(cx) || !self.asked_for.is_empty() || !self.forgotten.is_empty() {
            return;
        }
        let Some(loads) = cx.load.clone() else {
            self.wants_load = true;
            return;
        };
        let there = self.instances.values();
        let there = there.filter(|instance| !instance.retiring && cx.can_act(&instance.node));
        let mut better: Vec<&InstanceId> = there
            .map(|instance| &instance.id)
            .filter(|id| self.is_better_elsewhere(id, cx.sites(&loads)))
            .collect();
        better.sort_by_key(|id| (self.bound.contains_key(*id), id.number()));
        if let Some(first) = better.first() {
            self.moving = Some((*first).clone());
            self.look_again = true;
            return;
        }
        // Where agents share a store, the wish is over when that says so.
        if cx.now < self.rebalanced_again {
            return;
        }
        self.rebalancing = cx.peers.is_some();
        self.rebalanced_again = cx.now + WRITE_AGAIN;
        let service = self.name.clone();
        cx.decide(Action::Rebalanced { service }, Reason::RebalanceAsked);
    }

    /// Every slot is served and nothing is changing.
    fn is_calm(&self, cx: &Context<'_>) -> bool {
        let serves = |slot: &crate::slot::Slot| {
            slot.is_parked() || (slot.serving().is_some() && slot.planned.is_none() && slot.takeover.is_none())
        };
        cx.missing.is_none()
            && self.slots.iter().all(serves)
            && !self
                .instances
                .values()
                .any(|instance| instance.phase == Phase::Stopping || instance.hook.is_some())
    }

    fn tell_rolling(&mut self, cx: &mut Context<'_>) {
        let service = self.name.clone();
        let done = |instance: &Instance| instance.current || instance.renewing || instance.retiring;
        if self.instances.values().all(done) {
            if self.rolling.take().is_some() {
                self.surge = false;
                let note = Note::about_service(NoteKind::RolloutDone, service);
                cx.out.push_back(Decision::note(note, Reason::AllReplaced));
            }
            return;
        }
        let waits = !self.is_given_up() && self.in_vain().is_none();
        let rolling = self.rolling.get_or_insert(Rolling::since(cx.now));
        if waits && rolling.stuck.is_none() && cx.now >= rolling.moved + STUCK_AFTER {
            let what = match self.unready_standbys() {
                why if why.is_empty() => "no standby can take over".into(),
                why => why.join("; "),
            };
            let because = Reason::NotReady { what };
            if let Some(rolling) = &mut self.rolling {
                rolling.stuck = Some((cx.now, because.clone()));
            }
            let note = Note::about_service(NoteKind::RolloutStuck, service);
            cx.out.push_back(Decision::note(note, because));
        }
    }

    /// The rollout got on: what is told of it begins anew.
    fn rolls_on(&mut self, now: Timestamp) {
        let rolling = self.rolling.get_or_insert(Rolling::since(now));
        rolling.moved = now;
        rolling.stuck = None;
    }

    /// Whether the slot that was moved to a process of the new declaration came back from it.
    fn judge_takeover(&mut self) {
        let Some((index, epoch, to)) = self.rolling.as_ref().and_then(|rolling| rolling.takes.clone()) else {
            return;
        };
        let Some(slot) = self.slots.get(index) else { return };
        let Some(holder) = slot.serving().and_then(|holder| self.instances.get(holder)) else {
            return;
        };
        // Nobody took it: it was not begun, or it is not over.
        if slot.epoch() <= epoch || slot.planned.is_some() || slot.takeover.is_some() {
            return;
        }
        let (came_back, since) = (!holder.current, slot.since);
        let last = self.instances.get(&to).and_then(Instance::went_wrong);
        let Some(rolling) = &mut self.rolling else { return };
        rolling.takes = None;
        rolling.came_back += u32::from(came_back);
        if rolling.came_back >= TAKEOVERS_TRIED && rolling.failed.is_none() {
            let tries = rolling.came_back;
            let because = Reason::TookAndLost {
                instance: to.clone(),
                times: tries,
                last,
            };
            rolling.failed = Some(InVain {
                since,
                because,
                tries,
                instance: to,
                trial: Trial::Slot,
            });
        }
    }

    /// Since when and why the rollout does not go on by itself, as far as it shows here.
    pub(crate) fn in_vain(&self) -> Option<InVain> {
        let of_takeovers = || {
            let rolling = self.rolling.as_ref()?;
            rolling.failed.clone()
        };
        of_takeovers().or_else(|| self.started_in_vain())
    }

    /// Who tries the new declaration was given up: that shows on every node.
    fn started_in_vain(&self) -> Option<InVain> {
        let outdated = |instance: &Instance| !instance.current && !instance.retiring;
        // Who failed with the declaration before says nothing of the one that mends it.
        let given_up = |instance: &&Instance| {
            let is_known = self.others_know_the_file || self.is_mine(instance);
            is_known && instance.current && matches!(instance.phase, Phase::Failed { .. })
        };
        let tried = self.instances.values().find(given_up)?;
        self.instances.values().any(outdated).then(|| InVain {
            since: tried.since,
            because: Reason::TriedInVain {
                instance: tried.id.clone(),
                because: tried.because.to_string(),
                last: tried.went_wrong(),
            },
            tries: self.declared.restart.replace_after,
            instance: tried.id.clone(),
            trial: Trial::Start,
        })
    }

    pub(super) fn rolling_wakeup(&self) -> Option<Timestamp> {
        let rolling = self.rolling.as_ref().filter(|rolling| rolling.stuck.is_none())?;
        Some(rolling.moved + STUCK_AFTER)
    }

    /// How a rollout gets on, for those who show it.
    pub(crate) fn rollout(&self) -> Option<RolloutView> {
        if self.removed
            || self
                .instances
                .values()
                .all(|instance| instance.current || instance.retiring)
        {
            return self.check_on_trial();
        }
        let of = |state, (since, because): (Timestamp, Reason)| RolloutView {
            state,
            since: Some(since),
            because: Some(because),
            given_up: self.giving_up.known.clone(),
        };
        let stuck = || self.rolling.as_ref()?.stuck.clone();
        let under_way = || RolloutView {
            state: RolloutState::UnderWay,
            since: self.rolling.as_ref().map(|rolling| rolling.begun),
            because: None,
            given_up: None,
        };
        let known = self.giving_up.known.as_ref();
        let known = known.map(|known| {
            let what = known.why.clone();
            (known.since, Reason::Told { what })
        });
        let in_vain = || {
            let found = self.started_in_vain()?;
            Some((found.since, found.because))
        };
        let given_up = known.or_else(in_vain);
        given_up
            .map(|given_up| of(RolloutState::GivenUp, given_up))
            .or_else(|| stuck().map(|stuck| of(RolloutState::Stuck, stuck)))
            .or_else(|| Some(under_way()))
    }

    /// A check that was changed while processes ran, and that none of them here has passed yet.
    fn check_on_trial(&self) -> Option<RolloutView> {
        let check = self.declared.check.as_ref().filter(|_| !self.removed)?;
        let tries =
            |instance: &&Instance| instance.check_untried.is_some() && !instance.retiring && instance.is_alive();
        let instance = self
            .instances
            .values()
            .filter(tries)
            .max_by_key(|instance| instance.fails)?;
        let has_failed = instance.fails >= check.fail_after;
        Some(RolloutView {
            state: if has_failed {
                RolloutState::GivenUp
            } else {
                RolloutState::UnderWay
            },
            since: instance.check_untried,
            because: has_failed.then(|| Reason::CheckNeverPassed {
                instance: instance.id.clone(),
                times: instance.fails,
                last: instance.last_failure.clone(),
            }),
            given_up: None,
        })
    }

    /// Another file, or somebody's wish: what was given up is tried again.
    pub(crate) fn roll_again(&mut self) {
        if let Some(rolling) = &mut self.rolling {
            (rolling.failed, rolling.came_back, rolling.takes) = (None, 0, None);
            rolling.stuck = None;
        }
    }
}

impl Rolling {
    fn since(now: Timestamp) -> Self {
        Self {
            begun: now,
            moved: now,
            stuck: None,
            takes: None,
            came_back: 0,
            failed: None,
        }
    }
}
