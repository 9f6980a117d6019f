//! What an agent that came back tells before, and after, it has looked at what ran.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

use decisions::{Action, Adopted, Core, Event, NoteKind, ProbeOutcome, Recovered, ServiceView, SlotKnown};
use model::{Epoch, InstanceId, NodeName, Revision, RunId, ServiceState, SlotId, Timestamp};
use std::collections::BTreeMap;

const FILE: &str = r#"
[service.web]
command = ["web"]
port = true
active = 1
standby = 1
check = { tcp = true }
"#;
/// When it stood like that first, and when the agent came back.
const SINCE: Timestamp = Timestamp(1_000_000);
const NOW: Timestamp = Timestamp(60_000_000);

#[test]
fn what_was_not_looked_at_since_is_not_called_redundant() {
    let mut core = back(ServiceState::Redundant);
    let web = view(&core, NOW);
    assert_eq!(web.state, ServiceState::Degraded, "it is not known to be redundant");
    assert!(
        web.because.to_string().contains("2 instances were not checked since"),
        "{}",
        web.because
    );
    assert_eq!(web.distance, 1, "no more than one failure is promised");
    assert!(!core.is_sure());
    probe(&mut core, "web-1", ProbeOutcome::Pass);
    let web = view(&core, NOW);
    assert!(
        web.because.to_string().contains("1 instance was not checked since"),
        "{}",
        web.because
    );
    // Who was late himself has seen nothing.
    probe(&mut core, "web-2", ProbeOutcome::Unsure);
    assert!(!core.is_sure());
    assert_eq!(told(&mut core), Vec::<ServiceState>::new(), "nothing of it is news");

    probe(&mut core, "web-2", ProbeOutcome::Pass);
    let web = view(&core, NOW);
    assert_eq!(
        (web.state, web.since, web.distance),
        (ServiceState::Redundant, SINCE, 2)
    );
    assert!(core.is_sure());
    assert_eq!(told(&mut core), Vec::<ServiceState>::new(), "it is as it was");
    let slot = &web.slots[0];
    assert_eq!((slot.since, slot.because.to_string()), (SINCE, "web-2 died".to_owned()));
}

#[test]
fn what_is_otherwise_than_before_is_news() {
    let mut core = back(ServiceState::Degraded);
    probe(&mut core, "web-1", ProbeOutcome::Pass);
    probe(&mut core, "web-2", ProbeOutcome::Pass);
    let web = view(&core, NOW);
    assert_eq!((web.state, web.since), (ServiceState::Redundant, NOW));
    assert_eq!(told(&mut core), [ServiceState::Redundant]);
}

/// An agent that finds both running, as an earlier one left them.
fn back(stood: ServiceState) -> Core {
    let node = NodeName::new("a").unwrap();
    let mut core = Core::new(1, 1_000, 0, [node.clone()]);
    core.stood(BTreeMap::from([(id("web-1").service().clone(), (stood, SINCE))]));
    let adopted = |name: &str, promoted: Option<Epoch>| Adopted {
        since: Some(SINCE),
        instance: id(name),
        node: node.clone(),
        run: RunId(7),
        running: true,
        current: true,
        promoted,
        acts: promoted,
        served: promoted.is_some(),
        followed: None,
        stands_by: None,
        healthy: true,
    };
    let slot = SlotKnown {
        since: SINCE,
        slot: SlotId {
            service: id("web-1").service().clone(),
            slot: 0,
        },
        held: true,
        holder: id("web-1"),
        epoch: Epoch(3),
        revision: Revision(10),
        attempt: 1,
        node: node.clone(),
        session: None,
        served: true,
        data: None,
        served_before: None,
        because: "web-2 died".into(),
        begun: None,
    };
    let recovered = Recovered {
        worked: None,
        cluster: spec::parse(FILE, "shop.toml").unwrap().cluster,
        slots: vec![slot],
        instances: vec![adopted("web-1", Some(Epoch(3))), adopted("web-2", None)],
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere: Vec::new(),
    };
    core.handle(Event::Recovered(recovered), NOW);
    core
}

fn probe(core: &mut Core, name: &str, outcome: ProbeOutcome) {
    let probed = Event::Probed {
        instance: id(name),
        run: RunId(7),
        standby: false,
        began: NOW,
        outcome,
    };
    core.handle(probed, NOW);
}

fn view(core: &Core, now: Timestamp) -> ServiceView {
    core.view(now).services.remove(0)
}

/// How it stands, as it was told.
fn told(core: &mut Core) -> Vec<ServiceState> {
    let mut told = Vec::new();
    while let Some(decision) = core.poll_decision() {
        if let Action::Note(note) = decision.action
            && let NoteKind::ServiceState(state) = note.kind
        {
            told.push(state);
        }
    }
    told
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}
