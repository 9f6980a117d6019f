//! What is shown when the store does not answer: what was known of the others is old, and is not shown as if it were so now.

use api::{NodeState, Status};

/// The word for what cannot be known now.
const UNKNOWN: &str = "unknown";

/// Nothing was heard of other nodes `since`, as the store does not answer `me`. Here, what is `frozen` stands still.
pub(crate) fn tell(status: &mut Status, me: &str, since: &str, frozen: bool) {
    for service in &mut status.services {
        for slot in service.slots.iter_mut().filter(|slot| slot.instance.is_some()) {
            let here = slot.node.as_deref() == Some(me);
            let state = match (here, service.exclusive) {
                // Of its own processes a node knows better.
                (true, false) => continue,
                (true, true) if !frozen => continue,
                (true, true) => "frozen",
                (false, _) => UNKNOWN,
            };
            slot.because = match here {
                true => {
                    "it stands still until the store answers: nobody can say now that it is the only one".to_owned()
                }
                false => format!(
                    "the store has not answered node {me} since {since}; then it was {}: {}",
                    slot.state, slot.because
                ),
            };
            slot.state = state.to_owned();
            since.clone_into(&mut slot.since);
        }
        service.because = format!(
            "the store has not answered node {me} since {since}; then it was {}: {}",
            service.state, service.because
        );
        UNKNOWN.clone_into(&mut service.state);
        since.clone_into(&mut service.since);
    }
    for node in status
        .nodes
        .iter_mut()
        .filter(|node| node.name != me && node.state == NodeState::Online)
    {
        node.because = format!("as was heard last; the store has not answered node {me} since {since}");
    }
}

#[cfg(test)]
mod tests {
    use super::tell;
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

    fn status(exclusive: bool) -> Status {
        let service = serde_json::json!({
            "name": "x", "state": "redundant", "since": "12:00", "because": "2 of 2 actives serve", "active": 2, "standby": 0, "need": 1,
            "exclusive": exclusive, "distance_to_outage": 2, "protection": "", "listen": null, "slots": [slot(0, "a"), slot(1, "b")],
            "instances": [], "failover_order": [], "traffic": null,
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
        tell(&mut status, "a", "12:05", frozen);
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
        assert_eq!(status.nodes[0].because, "its session lives");
        assert!(status.nodes[1].because.starts_with("as was heard last"));
    }

    #[test]
    fn an_exclusive_active_that_stands_still_serves_nobody() {
        assert_eq!(told(true, true).1, ["frozen", "unknown"]);
        assert_eq!(told(true, false).1, ["serving", "unknown"], "its deadline is not over");
    }
}
