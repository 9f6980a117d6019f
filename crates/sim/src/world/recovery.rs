//! The agent comes (back) up: it adopts what runs and reads what the store has.

use super::World;
use super::queue::Due;
use super::truth::Node;
use decisions::{Adopted, Core, Event, Paused, Reason, Recovered};
use model::{InstanceId, RunId};

impl World {
    pub(super) fn agent_comes_up(&mut self) {
        if self.agent.core.is_some() {
            return;
        }
        self.before_all();
        // The proxy hears nothing more from an earlier agent once this one has greeted it.
        for due in self.queue.take(|due| matches!(due, Due::Order(_))) {
            if let (Due::Order(order), true) = (due, self.pace.coin()) {
                self.order_arrives(&order);
            }
        }
        self.agent.life += 1;
        self.truth.agent_runs = true;
        self.truth.agent_starts += 1;
        let first_attempt = u64::from(self.agent.life) << 32;
        let nodes = self.truth.nodes.keys().cloned();
        self.agent.core = Some(Core::new(self.seed, first_attempt, 0, nodes));
        self.retell_operators_wishes();
        let recovered = self.recovered();
        let running: Vec<(InstanceId, RunId, bool)> = self
            .truth
            .instances
            .iter()
            .filter_map(|(id, instance)| {
                let process = instance.process.as_ref()?;
                Some((id.clone(), process.run, process.main))
            })
            .collect();
        self.hand_over(Event::Recovered(recovered));
        // What an earlier agent counted, this one does not know.
        for (id, run, _) in &running {
            if let Some(process) = self.truth.process_mut(id, *run) {
                let passed_once = process.evidence.passed_once;
                process.evidence = super::truth::Evidence {
                    passed_once,
                    ..Default::default()
                };
            }
        }
        for (instance, run, main) in running {
            if main {
                self.begin_probing(&instance, run);
            } else {
                let how = "it ended while no agent ran".into();
                self.tell(Event::Exited { instance, run, how });
            }
        }
    }

    /// What operators wanted is kept beside the store and outlives the agent.
    fn retell_operators_wishes(&mut self) {
        for (node, state) in self.truth.nodes.clone() {
            match state {
                Node::Online => {}
                Node::Drained => self.hand_over(Event::NodeDrained { node }),
                Node::Lost => self.hand_over(Event::NodeLost {
                    node,
                    because: Reason::DrillAsked,
                }),
            }
        }
        if self.truth.paused {
            let paused = self.paused_now();
            self.hand_over(Event::Paused(Some(paused)));
        }
        for (service, given_up) in self.truth.store.given_up.clone() {
            let given_up = Some(given_up);
            self.hand_over(Event::GivenUp { service, given_up });
        }
    }

    /// A pause as the operator of the made-up world asks for it.
    pub(super) fn paused_now(&self) -> Paused {
        Paused {
            since: self.truth.now,
            by: "the operator".into(),
            why: String::new(),
        }
    }

    fn recovered(&self) -> Recovered {
        let adopted = self.truth.instances.iter().map(|(id, instance)| {
            let process = instance.process.as_ref();
            let declared = self.truth.declared.get(id.service());
            Adopted {
                instance: id.clone(),
                node: instance.node.clone(),
                run: instance.run,
                running: process.is_some(),
                current: process
                    .zip(declared)
                    .is_none_or(|(process, declared)| process.from.launch() == declared.launch()),
                promoted: instance.memo.promoted.filter(|_| process.is_some()),
                acts: instance.memo.acts.filter(|_| process.is_some()),
                served: process.is_some() && instance.memo.served,
                followed: instance.memo.followed.filter(|_| process.is_some()),
                healthy: process.is_some_and(|process| {
                    let unchecked = declared.is_none_or(|declared| declared.check.is_none());
                    unchecked || process.evidence.passed_once || instance.memo.was_fit
                }),
                stands_by: instance.memo.stands_by.filter(|_| process.is_some()),
                since: None,
            }
        });
        let routes = self.truth.proxy.routes.iter();
        Recovered {
            elsewhere: Vec::new(),
            worked: None,
            cluster: self.truth.cluster(),
            slots: self.truth.store.slots.values().cloned().collect(),
            instances: adopted.collect(),
            numbers: self.truth.numbers.clone().into_iter().collect(),
            routes: routes
                .map(|(service, route)| (service.clone(), route.revision))
                .collect(),
        }
    }
}
