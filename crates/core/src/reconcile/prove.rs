//! Between the demotion of an old holder and the claim for the next: that has to show that it has everything.
//!
//! Its last standby check may be from before the last write. So one that begins after the demotion must pass, and it must still follow
//! the one that was demoted. If that does not come about in time, the old holder, which has everything, is promoted again.

use crate::instance::Instance;
use crate::service::Service;
use crate::slot::{Planned, Stage};
use crate::{Action, Context, Decision, Note, NoteKind, Reason};
use model::{InstanceId, Millis};

/// Clients wait meanwhile: no longer than this, and than half of what they are made to wait at most.
const PROVE_WITHIN: Millis = Millis(2_000);

impl Service {
    /// Carries a planned change on whose old holder was demoted.
    pub(super) fn prove(&mut self, index: usize, cx: &mut Context<'_>) {
        let Some(stage) = self.slots[index].planned.as_ref().map(|planned| planned.stage.clone()) else {
            return;
        };
        match stage {
            Stage::Demoted => self.ask_for_proof(index, cx),
            Stage::Proving { to, number, until } => {
                let Some(instance) = self.instances.get(&to) else {
                    return self.hand_back(index, &to, "it is gone".into(), cx);
                };
                let answer = instance.proved.as_ref().filter(|(answered, _)| *answered == number);
                let answer = answer.map(|(_, result)| result.clone());
                match (answer, self.readiness(instance)) {
                    (Some(Ok(())), Ok(())) => self.go_on(index, Some(to)),
                    (Some(Ok(())), Err(why)) => self.hand_back(index, &to, why, cx),
                    _ if !instance.is_fit() => {
                        let why = instance.because.to_string();
                        self.hand_back(index, &to, why, cx);
                    }
                    (Some(Err(what)), _) if cx.now >= until => {
                        self.hand_back(index, &to, format!("its standby check fails: {what}"), cx);
                    }
                    _ if cx.now >= until => {
                        let waited = self.prove_within();
                        let why = format!("its standby check did not answer within {waited} of the demotion");
                        self.hand_back(index, &to, why, cx);
                    }
                    _ => {}
                }
            }
            Stage::Parting { .. } | Stage::Draining { .. } | Stage::Demoting | Stage::Stopping | Stage::Clear => {}
        }
    }

    fn prove_within(&self) -> Millis {
        Millis(PROVE_WITHIN.0.min(self.declared.hold_timeout.0 / 2))
    }

    fn ask_for_proof(&mut self, index: usize, cx: &mut Context<'_>) {
        let to = self.candidate(index, cx);
        let proves = self.declared.standby_check.is_some() && !self.is_cold() && self.emptied(index).is_none();
        let Some(to) = to.filter(|to| proves && self.slots[index].last_holder() != Some(to)) else {
            return self.go_on(index, None);
        };
        let number = cx.next_attempt();
        let until = cx.now + self.prove_within().duration();
        let node = self.instances.get(&to).map(|instance| instance.node.clone());
        let elsewhere = node.filter(|node| self.me.as_ref().is_some_and(|me| me != node));
        match elsewhere {
            None => drop(self.proof_asked(&to, number, cx.now, cx.out)),
            Some(node) => {
                let action = Action::AskProof {
                    instance: to.clone(),
                    node,
                    number,
                };
                cx.decide(action, Reason::ProofNeeded { instance: to.clone() });
            }
        }
        if let Some(planned) = &mut self.slots[index].planned {
            planned.stage = Stage::Proving { to, number, until };
        }
    }

    /// The slot may be claimed: for whom showed that it can hold it, or for whoever is first in line.
    fn go_on(&mut self, index: usize, to: Option<InstanceId>) {
        if let Some(planned) = &mut self.slots[index].planned {
            planned.stage = Stage::Clear;
            planned.to = to.or_else(|| planned.to.take());
        }
    }

    /// The old holder takes its slot again, at a new epoch.
    fn hand_back(&mut self, index: usize, to: &InstanceId, what: String, cx: &mut Context<'_>) {
        let slot = &mut self.slots[index];
        let Some(old) = slot.last_holder().cloned() else { return };
        let returns = self.instances.get(&old).is_some_and(Instance::is_fit);
        let because = Reason::NotProven {
            instance: to.clone(),
            what,
        };
        let then = if returns {
            format!("{old} is promoted again")
        } else {
            format!("{old} is not well any more either: whoever has the data takes over")
        };
        slot.abort(format!("{because}; {then}"), cx.out);
        slot.begin_takeover(false, because.clone(), cx.now);
        slot.confirm_dead(cx.now);
        slot.planned = returns.then(|| Planned {
            to: Some(old),
            stage: Stage::Clear,
            because: because.clone(),
            drained: true,
            left: std::collections::BTreeSet::new(),
        });
        let note = Note::about_service(NoteKind::HandedBack, self.name.clone());
        cx.out.push_back(Decision::note(note, because));
    }
}
