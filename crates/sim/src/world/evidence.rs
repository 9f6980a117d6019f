//! What the agent was told, counted independently of the core, and what operators want, written down.

use super::World;
use super::truth::Node;
use decisions::{Event, HookOutcome, ProbeOutcome};
use model::{HookKind, InstanceId, RunId};

impl World {
    /// Counts for itself what the core is told, and keeps the memo that the agent keeps.
    pub(super) fn note_evidence(&mut self, event: &Event) {
        match event {
            Event::Probed {
                instance,
                run,
                standby: false,
                outcome,
                ..
            } => self.note_probe(instance, *run, outcome),
            Event::HookDone {
                instance: id,
                run,
                hook,
                epoch,
                outcome,
            } => {
                let Some(instance) = self.truth.instances.get_mut(id) else {
                    return;
                };
                let Some(process) = instance.process.as_mut().filter(|process| process.run == *run) else {
                    return;
                };
                match (hook, outcome) {
                    (HookKind::Promote, HookOutcome::Done) => instance.memo.promoted_at(*epoch),
                    (HookKind::Follow, HookOutcome::Done) => instance.memo.followed = Some(*epoch),
                    (HookKind::Demote, HookOutcome::Done) => instance.memo.acts = None,
                    (HookKind::Follow, HookOutcome::Failed(_)) => {}
                    (_, HookOutcome::Failed(_)) => process.evidence.hook_failed = true,
                }
            }
            // What operators want is written down when the agent hears of it, before the core does.
            Event::Applied(cluster) => self.apply(cluster),
            Event::Paused(paused) => self.truth.paused = paused.is_some(),
            Event::Shutdown => self.truth.shutdown = true,
            Event::NodeDrained { node } => {
                self.truth.nodes.insert(node.clone(), Node::Drained);
            }
            Event::NodeBack { node, .. } => {
                self.truth.nodes.insert(node.clone(), Node::Online);
            }
            _ => {}
        }
    }

    fn note_probe(&mut self, id: &InstanceId, run: RunId, outcome: &ProbeOutcome) {
        let check = self
            .truth
            .declared
            .get(id.service())
            .and_then(|service| service.check.as_ref());
        let (fail_after, pass_after) = check.map_or((1, 1), |check| (check.fail_after, check.pass_after));
        let Some(process) = self.truth.process_mut(id, run) else {
            return;
        };
        let evidence = &mut process.evidence;
        match outcome {
            ProbeOutcome::Unsure => {}
            ProbeOutcome::Pass => {
                evidence.fails = 0;
                evidence.passes += 1;
                evidence.unhealthy &= evidence.passes < pass_after;
                evidence.passed_once = true;
            }
            ProbeOutcome::Fail(_) => {
                evidence.passes = 0;
                evidence.fails += 1;
                evidence.unhealthy |= evidence.fails >= fail_after;
            }
        }
    }
}
