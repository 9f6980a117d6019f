//! Versions of services that do not work, and of which that is written down.
//!
//! ```text
//! found out by the controller ──▶ written (`Action::GiveUp`) ──▶ told to every core (`Event::GivenUp`): nobody tries it again
//!                                      ▲                                │ another declaration; `retry`; it works after all
//!                                      └── another file that declares   ▼ (`Action::TryAgain`)
//!                                          the same is in force      forgotten
//! ```
//! Only what is written is told as given up, so that no later controller begins anew what people were told is over.

use crate::instance::{Instance, Phase};
use crate::peers::WRITE_AGAIN;
use crate::service::Service;
use crate::{Action, Context, Core, Decision, Note, NoteKind, Reason};
use model::{InstanceId, NodeName, ServiceName, Timestamp};

/// Why what is declared of a service is not tried any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub why: String,
    /// How often it was tried: starts in a row that never became healthy, or slots that were taken and not kept.
    pub tries: u32,
    /// The node of the controller that gave it up; none on one machine.
    pub by: Option<NodeName>,
    /// Who tried it last.
    pub instance: InstanceId,
    /// How far that came.
    pub trial: Trial,
}

/// What a version was tried at in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trial {
    /// It never became healthy. Should it after all, it is tried again on others.
    Start,
    /// It became healthy, took a slot, and did not keep it.
    Slot,
}

/// What is known of a version that was given up, or shall be.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivingUp {
    /// As it was written.
    pub(crate) known: Option<GivenUp>,
    /// That is written for the file in force, and not only for an earlier one that declares the same.
    is_written: bool,
    /// It is to be tried again: why. Until that is written.
    again: Option<Reason>,
    /// What was asked for and is not seen in the store by then is asked for again.
    write_at: Timestamp,
}

impl Core {
    /// The store says that what is declared of a service now is given up, or not any more.
    pub(crate) fn hear_given_up(&mut self, name: &ServiceName, known: Option<GivenUp>, now: Timestamp) {
        let Some(service) = self.services.get_mut(name) else {
            // The file that declares it is still to come.
            match known {
                Some(known) => drop(self.given_up_before.insert(name.clone(), known)),
                None => drop(self.given_up_before.remove(name)),
            }
            return;
        };
        let was_known = service.giving_up.known.is_some();
        if let Some(known) = known.as_ref().filter(|_| !was_known) {
            let note = Note::about_service(NoteKind::RolloutGivenUp, name.clone());
            let because = Reason::Told {
                what: known.why.clone(),
            };
            self.decisions.push_back(Decision::note(note, because));
        }
        // Whoever is tried again was heard of before as one that was given up.
        let forgotten = was_known && known.is_none();
        service.giving_up = GivingUp {
            is_written: known.is_some(),
            again: service.giving_up.again.take().filter(|_| known.is_some()),
            known,
            write_at: if forgotten { now + WRITE_AGAIN } else { Timestamp(0) },
        };
        if was_known && service.giving_up.known.is_none() {
            service.roll_again();
        }
        self.reconcile(name, now);
    }
}

impl Service {
    /// What is declared is known not to work: it is not tried on anybody else.
    pub(crate) fn is_given_up(&self) -> bool {
        self.giving_up.known.is_some()
    }

    /// What an agent that came up read of it.
    pub(crate) fn recover_given_up(&mut self, known: GivenUp, now: Timestamp) {
        // Whoever tried it in vain waits for its time as before.
        let restart = self.declared.restart.clone();
        let tried = self.instances.get_mut(&known.instance);
        let waits = |tried: &&mut Instance| known.trial == Trial::Start && tried.current && !tried.has_process();
        if let Some(tried) = tried.filter(waits) {
            tried.fail_until(
                now + restart.retry_after.duration(),
                restart.replace_after,
                now,
                &known.why,
            );
            self.replacements = restart.give_up_after;
        }
        self.giving_up = GivingUp {
            known: Some(known),
            is_written: true,
            ..GivingUp::default()
        };
    }

    /// Another file is in force. It is kept that what is declared is given up if it declares the same.
    pub(crate) fn other_file(&mut self, is_same: bool) {
        self.giving_up = GivingUp {
            known: self.giving_up.known.take().filter(|_| is_same),
            ..GivingUp::default()
        };
    }

    /// The operator wants what was given up to be tried again.
    pub(crate) fn try_again(&mut self, because: Reason) {
        if self.is_given_up() && self.giving_up.again.is_none() {
            self.giving_up.again = Some(because);
            self.giving_up.write_at = Timestamp(0);
        }
    }

    /// Has written down what is to be known of it: that it is given up, or that it is not any more.
    pub(crate) fn write_given_up(&mut self, cx: &mut Context<'_>) {
        if cx.is_controller()
            && let Some(because) = self.works_after_all(cx.now)
        {
            self.try_again(because);
        }
        if cx.now < self.giving_up.write_at {
            return;
        }
        let service = self.name.clone();
        if let Some(because) = self.giving_up.again.clone() {
            self.giving_up.write_at = cx.now + WRITE_AGAIN;
            cx.decide(Action::TryAgain { service }, because);
            return;
        }
        if !cx.places() || self.giving_up.is_written || self.removed {
            return;
        }
        let found = self.giving_up.known.clone().or_else(|| self.found_in_vain(cx));
        if let Some(given_up) = found {
            self.giving_up.write_at = cx.now + WRITE_AGAIN;
            let because = Reason::Told {
                what: given_up.why.clone(),
            };
            cx.decide(Action::GiveUp { service, given_up }, because);
        }
    }

    /// Why what was given up is tried again without being asked: it works, or whoever waits to try it once more has gone before the time came.
    fn works_after_all(&self, now: Timestamp) -> Option<Reason> {
        let known = self.giving_up.known.as_ref()?;
        let tried = self.instances.get(&known.instance);
        // A cold one that waited for its time could be started again: more is not known of it before it takes a slot.
        let waits_cold = |tried: &Instance| self.is_cold() && matches!(tried.phase, Phase::Prepared { .. });
        let is_well =
            |tried: &&Instance| known.trial == Trial::Start && tried.current && (tried.is_fit() || waits_cold(tried));
        if let Some(tried) = tried.filter(is_well) {
            let instance = tried.id.clone();
            return Some(Reason::ChecksPass { instance });
        }
        if tried.is_none_or(|tried| !tried.current) && self.lapses_at().is_some_and(|at| now >= at) {
            return Some(Reason::RetryDue);
        }
        self.runs_as_declared().then_some(Reason::AllReplaced)
    }

    /// What this core found out by itself, as it is to be written.
    fn found_in_vain(&self, cx: &Context<'_>) -> Option<GivenUp> {
        let found = self.in_vain()?;
        Some(GivenUp {
            since: found.since,
            why: found.because.to_string(),
            tries: found.tries,
            by: cx.peers.map(|peers| peers.me.clone()),
            instance: found.instance,
            trial: found.trial,
        })
    }

    /// When a start is tried again by itself, if who tried it last does not do so: not after all have gone back to what worked.
    fn lapses_at(&self) -> Option<Timestamp> {
        if self.goes_back() {
            return None;
        }
        let known = self.giving_up.known.as_ref()?;
        let retry_after = self.declared.restart.retry_after.duration();
        (known.trial == Trial::Start).then(|| known.since + retry_after)
    }

    /// When something is to be written again, should the store not say so by then, or what was given up is due.
    pub(crate) fn given_up_wakeup(&self, now: Timestamp) -> Option<Timestamp> {
        let giving_up = &self.giving_up;
        let wants = giving_up.again.is_some() || !giving_up.is_written;
        let writes = wants.then_some(giving_up.write_at);
        writes.into_iter().chain(self.lapses_at()).filter(|at| *at > now).min()
    }
}
