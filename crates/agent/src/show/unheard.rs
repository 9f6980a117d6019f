//! What is shown when the store does not answer, or refuses what nodes write: what was known of the others is old, and is not shown as if it were
//! so now.

use api::{Explanation, NodeState, Status};

/// The word for what cannot be known now.
const UNKNOWN: &str = "unknown";
/// What stands still here while nobody can say that it is the only one.
const FROZEN: &str = "this node's exclusive actives stand still until the store acknowledges a renewal";

/// Why others are not heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// The store does not answer this node: of no other is anything known.
    Lost,
    /// It refuses this node's renewals. Where it does so to all, nobody is heard of; where to this one alone, the others still are.
    Refuses,
}

/// Since when what `me` knows is old, and why.
pub(crate) fn in_words(me: &str, silence: Silence, since: &str) -> String {
    match silence {
        Silence::Lost => format!("the store has not answered node {me} since {since}"),
        Silence::Refuses => format!("the store refuses what nodes write since {since}"),
    }
}

/// What `me` knows is old `since`, for all nodes that are not `heard`. Here, what is `frozen` stands still.
pub(crate) fn tell(
    status: &mut Status,
    me: &str,
    (silence, since): (Silence, &str),
    frozen: bool,
    heard: impl Fn(&str) -> bool,
) {
    let known = |node: &str| node == me || (silence == Silence::Refuses && heard(node));
    let told = in_words(me, silence, since);
    for service in &mut status.services {
        let old = match silence {
            Silence::Lost => true,
            // An alarm that was true stays one.
            Silence::Refuses => service.state != "down" && service.instances.iter().any(|one| !known(&one.node)),
        };
        for slot in service.slots.iter_mut().filter(|slot| slot.instance.is_some()) {
            let node = slot.node.as_deref().unwrap_or_default();
            let here = node == me;
            let state = match (here, service.exclusive) {
                // Of its own processes a node knows better.
                (true, false) => continue,
                (true, true) if !frozen => continue,
                (true, true) => "frozen",
                (false, _) if known(node) => continue,
                (false, _) => UNKNOWN,
            };
            slot.because = match here {
                true => {
                    "it stands still until the store acknowledges a renewal: nobody can say now that it is the only one"
                        .to_owned()
                }
                false => format!("{told}; then it was {}: {}", slot.state, slot.because),
            };
            slot.state = state.to_owned();
            since.clone_into(&mut slot.since);
        }
        for instance in service.instances.iter_mut().filter(|one| !known(&one.node)) {
            let word = match instance.state.as_str() {
                "running" => &instance.health,
                state => state,
            };
            instance.because = format!("{told}; then it was {word}: {}", instance.because);
            UNKNOWN.clone_into(&mut instance.state);
            UNKNOWN.clone_into(&mut instance.health);
            instance.ready = false;
            since.clone_into(&mut instance.since);
        }
        if old {
            service.because = format!("{told}; then it was {}: {}", service.state, service.because);
            UNKNOWN.clone_into(&mut service.state);
            since.clone_into(&mut service.since);
        }
    }
    let online = |node: &&mut api::NodeStatus| node.state == NodeState::Online;
    for node in status.nodes.iter_mut().filter(online).filter(|node| !known(&node.name)) {
        node.because = format!("{told}; then it was online: {}", node.because);
        node.state = NodeState::Unknown;
        since.clone_into(&mut node.since);
    }
}

/// What is explained is what was known before, and nothing of it comes about before the store answers again.
pub(crate) fn explain(explanation: &mut Explanation, told: &str, frozen: bool) {
    let summary = &explanation.summary;
    explanation.summary = format!("{told}, and what is not of this node is as it was then: {summary}");
    if frozen {
        explanation.facts.insert(0, FROZEN.to_owned());
    }
    let nobody = || format!("{told}: nobody takes anything over before it answers, and what follows is as it was then");
    if !explanation.if_it_dies.is_empty() {
        explanation.if_it_dies.insert(0, nobody());
    }
    for answer in &mut explanation.answers {
        answer.lines.insert(0, nobody());
    }
}

#[cfg(test)]
mod tests {
    use super::{Silence, explain, tell};
    use api::{NodeState, NodeStatus, SlotStatus, Status};

    fn slot(slot: u32, node: &str) -> SlotStatus {
        SlotStatus {
            slot,
            state: "serving".into(),
            instance: Some(format!("x-{slot}")),
            node: Some(node.into()),
            epoch: 3,
            since: "12:00".into(),
            because: "it holds the slot at epoch 3".into(),
            parked: None,
        }
    }

    fn instance(id: &str, node: &str) -> serde_json::Value {
        serde_json::json!({
            "id": id, "node": node, "role": "active", "health": "healthy", "state": "running", "ready": true, "since": "12:00",
            "because": "it was promoted", "pid": 7, "address": null, "restarts": 0, "last_failure": null,
        })
    }

    fn status(exclusive: bool) -> Status {
        let service = serde_json::json!({
            "name": "x", "state": "redundant", "since": "12:00", "because": "2 of 2 actives serve", "active": 2, "standby": 0, "need": 1,
            "exclusive": exclusive, "distance_to_outage": 2, "protection": "", "listen": null, "slots": [slot(0, "a"), slot(1, "b")],
            "instances": [instance("x-0", "a"), instance("x-1", "b")], "failover_order": [], "traffic": null,
        });
        let node = |name: &str| NodeStatus {
            name: name.into(),
            zone: String::new(),
            state: NodeState::Online,
            since: "12:00".into(),
            because: "its session lives".into(),
        };
        Status {
            version: 1,
            cluster: "shop".into(),
            at: "12:10".into(),
            revision: 1,
            services: vec![serde_json::from_value(service).unwrap()],
            nodes: vec![node("a"), node("b")],
            problems: Vec::new(),
            paused: None,
            pause: None,
            distances_at: None,
        }
    }

    fn told(exclusive: bool, frozen: bool) -> (Status, Vec<String>) {
        let mut status = status(exclusive);
        tell(&mut status, "a", (Silence::Lost, "12:05"), frozen, |_| true);
        let slots = status.services[0].slots.iter().map(|slot| slot.state.clone()).collect();
        (status, slots)
    }

    #[test]
    fn what_was_heard_long_ago_is_not_shown_as_if_it_were_so_now() {
        let (status, slots) = told(false, false);
        assert_eq!(slots, ["serving", "unknown"], "its own process it sees");
        let service = &status.services[0];
        assert_eq!((service.state.as_str(), service.since.as_str()), ("unknown", "12:05"));
        assert_eq!(
            service.because,
            "the store has not answered node a since 12:05; then it was redundant: 2 of 2 actives serve"
        );
        let health: Vec<&str> = service.instances.iter().map(|one| one.health.as_str()).collect();
        assert_eq!(health, ["healthy", "unknown"]);
        assert_eq!(status.nodes[0].because, "its session lives");
        assert_eq!(status.nodes[0].state, NodeState::Online);
        let other = &status.nodes[1];
        assert_eq!(
            (other.state, other.since.as_str()),
            (NodeState::Unknown, "12:05"),
            "{other:?}"
        );
        assert!(
            other.because.ends_with("; then it was online: its session lives"),
            "{other:?}"
        );
    }

    #[test]
    fn where_the_store_refuses_what_all_write_nothing_old_is_shown_as_if_it_were_so_now() {
        let refused = |heard: bool, state: &str| {
            let mut status = status(true);
            status.services[0].state = state.into();
            tell(&mut status, "a", (Silence::Refuses, "12:05"), true, |_| heard);
            status.services.remove(0)
        };
        let service = refused(false, "redundant");
        assert_eq!(service.state, "unknown");
        assert_eq!(
            service.because,
            "the store refuses what nodes write since 12:05; then it was redundant: 2 of 2 actives serve"
        );
        let instance = &service.instances[1];
        assert_eq!((instance.state.as_str(), instance.ready), ("unknown", false));
        assert!(instance.because.ends_with("then it was healthy: it was promoted"));
        assert_eq!(
            (service.slots[0].state.as_str(), service.slots[1].state.as_str()),
            ("frozen", "unknown")
        );

        let others_may_write = refused(true, "redundant");
        assert_eq!(others_may_write.state, "redundant", "they tell how they stand");
        assert_eq!(others_may_write.slots[1].state, "serving");
        assert_eq!(refused(false, "down").state, "down", "an alarm is not taken back");
    }

    #[test]
    fn an_exclusive_active_that_stands_still_serves_nobody() {
        assert_eq!(told(true, true).1, ["frozen", "unknown"]);
        assert_eq!(told(true, false).1, ["serving", "unknown"], "its deadline is not over");
    }

    #[test]
    fn what_is_explained_without_the_store_says_that_nobody_takes_over() {
        let mut explanation = api::Explanation {
            version: 1,
            about: "db".into(),
            summary: "db is redundant".into(),
            facts: vec!["slot 0 is serving".into()],
            if_it_dies: vec!["db-2 takes the slot".into()],
            answers: vec![api::Answer {
                question: "why not failed over".into(),
                lines: vec!["db-2 could take over".into()],
            }],
            events: Vec::new(),
        };
        explain(&mut explanation, "the store has not answered node a since 12:05", true);
        assert!(explanation.summary.starts_with("the store has not answered"));
        assert!(explanation.facts[0].contains("stand still"));
        for lines in [&explanation.if_it_dies, &explanation.answers[0].lines] {
            assert!(
                lines[0].contains("nobody takes anything over before it answers"),
                "{lines:?}"
            );
            assert_eq!(lines.len(), 2);
        }
    }
}
