//! An agent that comes up while a service grows knows from the store that it does, and how far it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

use decisions::{Adopted, Core, Event, Reason, Recovered, SlotKnown};
use model::{Epoch, InstanceId, NodeName, Revision, RunId, ServiceState, SlotId, Timestamp};

const NOW: Timestamp = Timestamp(10_000_000);

fn file(active: u32) -> model::Cluster {
    let text = format!("name = \"shop\"\n[service.web]\ncommand = [\"web\"]\nactive = {active}\nstandby = 0\n");
    spec::parse(&text, "shop.toml").unwrap().cluster
}

fn instance(number: u32) -> InstanceId {
    format!("web-{number}").parse().unwrap()
}

/// Slot `index` as its holder left it at the epoch that follows its number.
fn slot(index: u32, held: bool) -> SlotKnown {
    let holder = instance(index + 1);
    SlotKnown {
        since: Timestamp(0),
        slot: SlotId {
            service: holder.service().clone(),
            slot: index,
        },
        held,
        holder,
        epoch: Epoch(u64::from(index) + 1),
        revision: Revision(10),
        attempt: 1,
        node: NodeName::new("a").unwrap(),
        session: None,
        served: true,
        data: None,
        served_before: None,
        because: "it was told so".into(),
        begun: None,
    }
}

fn serves(number: u32) -> Adopted {
    Adopted {
        since: None,
        instance: instance(number),
        node: NodeName::new("a").unwrap(),
        run: RunId(1),
        running: true,
        current: true,
        promoted: Some(Epoch(u64::from(number))),
        acts: Some(Epoch(u64::from(number))),
        served: true,
        followed: None,
        stands_by: None,
        healthy: true,
    }
}

/// How an agent that came up sees a service of four actives of which the first two serve.
fn came_up(worked: Option<u32>, slots: Vec<SlotKnown>) -> (ServiceState, u32, Reason) {
    let mut core = Core::new(1, 1_000, 0, [NodeName::new("a").unwrap()]);
    let recovered = Recovered {
        worked: worked.map(|active| Box::new(file(active))),
        cluster: file(4),
        slots,
        instances: vec![serves(1), serves(2)],
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere: Vec::new(),
    };
    core.handle(Event::Recovered(recovered), NOW);
    let view = core.view(NOW);
    let service = view.services.first().unwrap();
    (service.state, service.need, service.because.clone())
}

#[test]
fn slots_that_were_never_held_are_not_missed_yet() {
    let (state, need, because) = came_up(Some(2), vec![slot(0, true), slot(1, true)]);
    assert_eq!((state, need), (ServiceState::Degraded, 2));
    assert!(
        matches!(
            because,
            Reason::Grows {
                from: 2,
                serving: 2,
                active: 4,
                ..
            }
        ),
        "{because}"
    );
}

#[test]
fn an_added_slot_that_was_held_is_missed() {
    let (state, need, _) = came_up(Some(2), vec![slot(0, true), slot(1, true), slot(2, false)]);
    assert_eq!((state, need), (ServiceState::Down, 3));
}

#[test]
fn what_never_worked_as_a_whole_does_not_grow() {
    for worked in [None, Some(4)] {
        let (state, need, _) = came_up(worked, vec![slot(0, true), slot(1, true)]);
        assert_eq!((state, need), (ServiceState::Down, 4));
    }
}
