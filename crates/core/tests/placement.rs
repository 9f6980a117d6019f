//! Where instances are put: zones, named nodes, what nodes have left, and why there is no place.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

use decisions::{Action, ClusterEvent, Core, Event, Place, Recovered};
use model::{NodeName, Revision, ServiceName, Timestamp};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_000_000);
const GIB: u64 = 1 << 30;

/// The controller, on the first of these nodes; each has a zone and four GiB.
fn controller(keys: &str, nodes: &[(&str, &str)]) -> Core {
    let name = |node: &str| NodeName::new(node).unwrap();
    let mut core = Core::clustered(1, 1_000, 0, name(nodes[0].0), Duration::from_millis(80));
    let mut elsewhere = Vec::new();
    for (number, (node, zone)) in nodes.iter().enumerate() {
        if number > 0 {
            elsewhere.push(ClusterEvent::Session {
                node: name(node),
                session: Some(Revision(number as u64 + 1)),
            });
        }
        elsewhere.push(ClusterEvent::Member {
            node: name(node),
            runs_services: true,
            member: true,
            place: Place {
                zone: (*zone).into(),
                cpu_percent: 400,
                memory_bytes: 4 * GIB,
            },
        });
    }
    let file = format!("[service.db]\ncommand = [\"db\"]\n{keys}");
    let recovered = Recovered {
        worked: None,
        cluster: spec::parse(&file, "shop.toml").unwrap().cluster,
        slots: Vec::new(),
        instances: Vec::new(),
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere,
    };
    core.handle(Event::Recovered(recovered), NOW);
    core.handle(Event::Cluster(ClusterEvent::OwnSession(Some(Revision(1)))), NOW);
    core.handle(Event::Cluster(ClusterEvent::Controller(true)), NOW);
    core
}

/// Where instances are put, in the order of their numbers; and why one is not.
fn placed(keys: &str, nodes: &[(&str, &str)]) -> (Vec<String>, Option<String>) {
    let mut core = controller(keys, nodes);
    let decided = std::iter::from_fn(|| core.poll_decision());
    let on = decided.filter_map(|decision| match decision.action {
        Action::Create { node, .. } => Some(node.to_string()),
        _ => None,
    });
    let on = on.collect();
    let view = core.service_view(&ServiceName::new("db").unwrap(), NOW).unwrap();
    (on, view.unplaced)
}

const ROOMS: [(&str, &str); 4] = [("a", "dc1/r1"), ("b", "dc1/r1"), ("c", "dc1/r2"), ("d", "dc2/r1")];

#[test]
fn the_first_copies_are_as_far_apart_as_the_paths_of_zones_say() {
    let (on, unplaced) = placed("active = 1\nstandby = 3\n", &ROOMS);
    assert_eq!(
        (on, unplaced),
        (vec!["a".into(), "d".into(), "c".into(), "b".into()], None)
    );
}

#[test]
fn no_two_copies_are_in_one_zone_and_the_reason_is_told() {
    let (on, unplaced) = placed("active = 1\nstandby = 3\nspread = \"zone\"\n", &ROOMS);
    assert_eq!(on, ["a", "d", "c"]);
    let told = "1 of 4 instances find no node: a has db-1; b is in zone dc1/r1 with db-1; c has db-3; d has db-2";
    assert_eq!(unplaced.as_deref(), Some(told));
}

#[test]
fn a_node_without_a_zone_is_one_by_itself() {
    let (on, unplaced) = placed("active = 1\nstandby = 1\nspread = \"zone\"\n", &[("a", ""), ("b", "")]);
    assert_eq!((on, unplaced), (vec!["a".into(), "b".into()], None));
}

#[test]
fn instances_are_only_where_the_file_wants_them() {
    let (on, _) = placed("active = 2\nstandby = 0\nnodes = [\"b\", \"c\"]\n", &ROOMS);
    assert_eq!(on, ["b", "c"]);
    let (on, _) = placed("active = 3\nstandby = 0\navoid = [\"a\"]\n", &ROOMS);
    assert!(!on.contains(&"a".to_owned()), "{on:?}");
    let (on, unplaced) = placed("active = 1\nstandby = 0\nnodes = [\"z\"]\n", &ROOMS[..2]);
    assert!(on.is_empty());
    let told = "1 of 1 instances find no node: a is not in `nodes`; b is not in `nodes`";
    assert_eq!(unplaced.as_deref(), Some(told));
}

#[test]
fn no_node_is_given_more_than_it_has() {
    let (on, unplaced) = placed(
        "active = 5\nstandby = 0\nreserve = { memory = \"2GiB\", cpu = 100 }\n",
        &[("a", ""), ("b", "")],
    );
    assert_eq!(on, ["a", "b", "a", "b"]);
    let told = "1 of 5 instances find no node: a has 0 bytes of memory left, 2147483648 are wanted; b has 0 bytes of memory left, \
                2147483648 are wanted";
    assert_eq!(unplaced.as_deref(), Some(told));
    let (on, _) = placed(
        "active = 3\nstandby = 0\nreserve = { cpu = 250 }\n",
        &[("a", ""), ("b", "")],
    );
    assert_eq!(on, ["a", "b"]);
}

#[test]
fn who_is_where_the_file_does_not_want_it_any_more_is_replaced_first() {
    let mut core = controller("active = 1\nstandby = 1\n", &ROOMS[..3]);
    while core.poll_decision().is_some() {}
    for (instance, node) in [("db-1", "a"), ("db-2", "c")] {
        core.handle(
            Event::Cluster(ClusterEvent::Assigned {
                instance: instance.parse().unwrap(),
                node: NodeName::new(node).unwrap(),
                retiring: false,
                placed: Revision(1),
            }),
            NOW,
        );
    }
    while core.poll_decision().is_some() {}
    let file = "[service.db]\ncommand = [\"db\"]\nactive = 1\nstandby = 1\navoid = [\"c\"]\n";
    core.handle(Event::Applied(spec::parse(file, "shop.toml").unwrap().cluster), NOW);
    let decided: Vec<Action> = std::iter::from_fn(|| core.poll_decision())
        .map(|decision| decision.action)
        .collect();
    let made = decided.iter().filter_map(|action| match action {
        Action::Create { node, .. } => Some(node.as_str()),
        _ => None,
    });
    assert_eq!(made.collect::<Vec<_>>(), ["b"]);
    let leaves = |action: &Action| {
        matches!(
            action,
            Action::Retire { .. } | Action::Forget { .. } | Action::Stop { .. }
        )
    };
    assert!(!decided.iter().any(leaves), "its replacement is not ready: {decided:?}");
}

/// What the controller asks the store for.
fn asked(core: &mut Core) -> Vec<String> {
    let decided = std::iter::from_fn(|| core.poll_decision());
    let asked = decided.filter_map(|decision| match decision.action {
        Action::Create { instance, node } => Some(format!("{instance} on {node}")),
        _ => None,
    });
    asked.collect()
}

#[test]
fn what_the_store_was_asked_for_is_awaited_until_it_says_what_became_of_it() {
    let keys = "active = 1\nstandby = 0\n";
    let mut core = controller(keys, &ROOMS);
    assert_eq!(asked(&mut core), ["db-1 on a"]);
    // The store is away for long, and carries out what it was asked for when it is back.
    for minute in 1..=10 {
        core.handle(Event::Tick, NOW + Duration::from_secs(60 * minute));
        assert_eq!(
            asked(&mut core),
            ["db-1 on a"],
            "the same once more, and nothing beside it"
        );
    }
    // It was there, and is gone for good.
    let later = NOW + Duration::from_secs(601);
    let instance = "db-1".parse().unwrap();
    core.handle(Event::Cluster(ClusterEvent::Unassigned { instance }), later);
    assert_eq!(asked(&mut core), ["db-2 on a"]);
    // Who is elected anew goes by what the store has.
    core.handle(Event::Cluster(ClusterEvent::Controller(false)), later);
    core.handle(Event::Cluster(ClusterEvent::Controller(true)), later);
    assert_eq!(asked(&mut core), ["db-3 on a"]);
}
