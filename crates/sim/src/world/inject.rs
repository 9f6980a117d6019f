//! Does to the world what a fault or an operator does.

use super::World;
use super::queue::Due;
use super::truth::Node;
use crate::fault::{Fault, Patient};
use decisions::{Event, GivenUp, Reason};
use model::{Cluster, InstanceId, NodeName, RunId};
use std::sync::Arc;
use std::time::Duration;

impl World {
    /// The next of the schedule, if there is somebody whom it can happen to.
    pub(super) fn inject_drawn(&mut self, index: usize) {
        let Some(draw) = self.schedule.get(index).cloned() else {
            return;
        };
        let Some(fault) = draw.resolve(&self.truth) else {
            return;
        };
        if self.inject(fault) {
            *self.tally.faults.entry(draw.kind).or_default() += 1;
        }
    }

    /// Returns whether it could be done.
    pub(crate) fn inject(&mut self, fault: Fault) -> bool {
        self.before_all();
        self.transcript.injected(self.truth.now, &fault);
        let now = self.truth.now;
        match fault {
            Fault::Kill {
                instance,
                child_survives,
            } => self.kill_main(&instance, child_survives),
            Fault::Hang { instance } => self.hang(&instance, true),
            Fault::Unhang { instance } => self.hang(&instance, false),
            Fault::Ail { patient, ailment, span } => {
                self.truth.ailing.push((patient, ailment, now + span));
                true
            }
            Fault::Cure { patient } => {
                self.cure(&patient);
                true
            }
            Fault::Hooks {
                service,
                hook,
                trouble,
                span,
            } => {
                self.truth.hook_trouble.push((service, hook, trouble, now + span));
                true
            }
            Fault::Store { trouble, span } => {
                self.truth.store_trouble = Some((trouble, now + span));
                true
            }
            Fault::StoreHealed => self.truth.store_trouble.take().is_some(),
            Fault::AgentDies { decisions: 0, back } => {
                let alive = self.agent.core.is_some();
                if alive {
                    self.agent_dies(back);
                }
                alive
            }
            Fault::AgentDies { decisions, back } => {
                let alive = self.agent.core.is_some();
                if alive {
                    self.agent.dies = Some((decisions, back));
                }
                alive
            }
            Fault::AgentBack => {
                self.agent_comes_up();
                true
            }
            Fault::AgentStops { span } => {
                let runs = self.truth.agent_runs;
                if runs {
                    self.agent_stops(span);
                }
                runs
            }
            Fault::ProxyDies { back } => {
                let alive = self.truth.proxy.alive;
                if alive {
                    self.truth.proxy.die();
                    // What was on its way to it is lost with it.
                    self.queue.take(|due| matches!(due, Due::Order(_)));
                    self.plan(back, Due::ProxyReturns);
                }
                alive
            }
            Fault::ProxySlow { span } => {
                self.truth.proxy.slow_until = now + span;
                true
            }
            fault => self.ask(fault),
        }
    }

    /// What only an agent that runs can be asked for.
    fn ask(&mut self, fault: Fault) -> bool {
        if !self.truth.agent_runs {
            return false;
        }
        match fault {
            Fault::Suspect { instance } => self.tell(Event::Suspected { instance }),
            Fault::NodeLost { node, span } => return self.lose_node(node, span),
            Fault::NodeBack { node } => {
                let because = Reason::BackAsked;
                self.tell(Event::NodeBack { node, because });
            }
            Fault::Drain { node, span } => {
                if self.truth.nodes.get(&node) != Some(&Node::Online) {
                    return false;
                }
                if let Some(span) = span {
                    self.plan(span, Due::NodeReturns(node.clone()));
                }
                self.tell(Event::NodeDrained { node });
            }
            Fault::Switchover { service, slot, to } => {
                self.requests += 1;
                let request = self.requests;
                self.truth.switchovers.insert(request, service.clone());
                self.tell(Event::Switchover {
                    request,
                    service,
                    slot,
                    to,
                });
            }
            Fault::Apply { cluster } => self.tell(Event::Applied(*cluster)),
            Fault::Pause { span } => {
                if let Some(span) = span {
                    self.plan(span, Due::Resumes);
                }
                let paused = self.paused_now();
                self.tell(Event::Paused(Some(paused)));
            }
            Fault::Resume => {
                self.tell(Event::Paused(None));
            }
            Fault::Retry { instance } => self.tell(Event::Retry { instance }),
            Fault::Shutdown => {
                self.tell(Event::Shutdown);
            }
            _ => return false,
        }
        true
    }

    /// Ends all faults: from here everything must recover.
    pub(crate) fn heal(&mut self) {
        self.before_all();
        self.truth.ailing.clear();
        self.truth.hook_trouble.clear();
        self.truth.store_trouble = None;
        self.truth.proxy.slow_until = self.truth.now;
        self.agent.dies = None;
        self.proxy_returns();
        self.agent_continues();
        self.agent_comes_up();
        let ids: Vec<InstanceId> = self.truth.instances.keys().cloned().collect();
        for id in ids {
            self.cure_process(&id);
        }
        for (node, state) in self.truth.nodes.clone() {
            if state != Node::Online {
                self.inject(Fault::NodeBack { node });
            }
        }
        if self.truth.paused {
            self.inject(Fault::Resume);
        }
    }

    /// What was given up because of faults is tried again by an operator, now that they are over.
    pub(crate) fn retry_given_up(&mut self) {
        let given_up: Vec<_> = self.truth.store.given_up.values().cloned().collect();
        for GivenUp { instance, .. } in given_up {
            self.tell(Event::Retry { instance });
        }
    }

    fn kill_main(&mut self, id: &InstanceId, child_survives: bool) -> bool {
        let process = self
            .truth
            .instances
            .get_mut(id)
            .and_then(|instance| instance.process.as_mut());
        let Some(process) = process.filter(|process| process.main) else {
            return false;
        };
        process.children = child_survives;
        let run = process.run;
        self.main_ends(id, run, "killed by SIGKILL");
        true
    }

    fn hang(&mut self, id: &InstanceId, hung: bool) -> bool {
        let process = self
            .truth
            .instances
            .get_mut(id)
            .and_then(|instance| instance.process.as_mut());
        let Some(process) = process.filter(|process| process.main && process.hung != hung) else {
            return false;
        };
        process.hung = hung;
        true
    }

    fn cure(&mut self, patient: &Patient) {
        self.truth.ailing.retain(|(who, _, _)| who != patient);
        self.truth
            .hook_trouble
            .retain(|(service, ..)| *patient != Patient::Service(service.clone()));
        let cured: Vec<InstanceId> = match patient {
            Patient::Instance(id) => vec![id.clone()],
            Patient::Service(name) => self.truth.of(name).map(|(id, _)| id.clone()).collect(),
        };
        for id in cured {
            self.cure_process(&id);
        }
    }

    fn cure_process(&mut self, id: &InstanceId) {
        let now = self.truth.now;
        if let Some(process) = self
            .truth
            .instances
            .get_mut(id)
            .and_then(|instance| instance.process.as_mut())
        {
            process.hung = false;
            process.answers_from = process.answers_from.min(now + Duration::from_millis(20));
        }
    }

    fn lose_node(&mut self, node: NodeName, span: Option<Duration>) -> bool {
        if self.truth.nodes.get(&node) == Some(&Node::Lost) {
            return false;
        }
        self.truth.nodes.insert(node.clone(), Node::Lost);
        let on_it = self
            .truth
            .instances
            .iter_mut()
            .filter(|(_, instance)| instance.node == node);
        let mut gone: Vec<(InstanceId, RunId)> = Vec::new();
        for (id, instance) in on_it {
            if instance.process.is_some() || instance.starting.take().is_some() {
                gone.push((id.clone(), instance.run));
            }
        }
        for (id, _) in &gone {
            self.forget_process(id);
        }
        if let Some(span) = span {
            self.plan(span, Due::NodeReturns(node.clone()));
        }
        let because = Reason::DrillAsked;
        self.tell(Event::NodeLost { node, because });
        for (instance, run) in gone {
            self.tell(Event::Gone { instance, run });
        }
        true
    }

    /// The file in force from now on, as the store has it.
    pub(super) fn apply(&mut self, cluster: &Cluster) {
        // It is kept by the file that declares it.
        self.truth.store.given_up.clear();
        let old = std::mem::take(&mut self.truth.declared);
        self.truth.declared = cluster
            .services
            .iter()
            .map(|(name, service)| (name.clone(), Arc::new(service.clone())))
            .collect();
        // Who takes a service away begins anew with it.
        self.truth
            .acknowledged
            .retain(|name, _| self.truth.declared.contains_key(name));
        let changed: Vec<(InstanceId, RunId)> = self
            .truth
            .instances
            .iter()
            .filter_map(|(id, instance)| {
                let before = old.get(id.service())?;
                let after = self.truth.declared.get(id.service())?;
                let same = before.check == after.check && before.standby_check == after.standby_check;
                let process = instance.process.as_ref().filter(|_| !same)?;
                Some((id.clone(), process.run))
            })
            .collect();
        for (id, run) in changed {
            let checked = self
                .truth
                .declared
                .get(id.service())
                .is_some_and(|service| service.check.is_some());
            if let Some(process) = self.truth.process_mut(&id, run) {
                process.evidence.unhealthy &= checked;
            }
            self.begin_probing(&id, run);
        }
    }
}
