//! Who is unhealthy is ended because a check fails now, not because of what was so before.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

use decisions::{Action, Adopted, Core, Event, ProbeOutcome, Reason, Recovered, SlotKnown};
use model::{Epoch, InstanceId, NodeName, Revision, RunId, SlotId, Timestamp};
use std::time::Duration;

/// When it was found unhealthy.
const THEN: Timestamp = Timestamp(1_000_000);

#[test]
fn what_was_heard_before_the_agent_stood_still_ends_nobody() {
    let mut core = active_with(0);
    assert_eq!(fails(&mut core, THEN), None, "slow is not dead");
    assert_eq!(
        fails(&mut core, THEN),
        None,
        "nor is who fails twice and has no successor"
    );

    let later = THEN + Duration::from_secs(60);
    core.handle(Event::Tick, later);
    assert_eq!(ended(&mut core), None, "nothing was heard for a minute");
    core.handle(Event::Tick, later + Duration::from_millis(500));
    assert_eq!(ended(&mut core), None, "and nothing since");

    let unhealthy = fails(&mut core, later + Duration::from_secs(1));
    assert_eq!(
        unhealthy.as_deref(),
        Some("db-1 is unhealthy: refused"),
        "it still fails"
    );
}

#[test]
fn who_passes_again_keeps_its_slot_though_somebody_could_take_it() {
    let mut core = active_with(1);
    fails(&mut core, THEN);
    assert_eq!(fails(&mut core, THEN), None, "nobody can take over yet");
    probe(&mut core, "db-1", ProbeOutcome::Pass, THEN);
    assert_eq!(ended(&mut core), None);

    // One pass of two: it is not well yet, and a successor is.
    probe(&mut core, "db-2", ProbeOutcome::Pass, THEN);
    assert_eq!(ended(&mut core), None, "its last check passed");

    let unhealthy = fails(&mut core, THEN + Duration::from_millis(200));
    assert_eq!(
        unhealthy.as_deref(),
        Some("db-1 is unhealthy: refused"),
        "and this one failed"
    );
}

/// An active that serves, and so many standbys that are starting, on one machine.
fn active_with(standbys: u32) -> Core {
    let file = format!(
        r#"
        [service.db]
        command = ["db"]
        port = true
        active = 1
        standby = {standbys}
        standby_mode = "warm"
        check = {{ tcp = true, every = "200ms", timeout = "200ms", fail_after = 2, pass_after = 2 }}
        "#
    );
    let node = NodeName::new("a").unwrap();
    let adopted = |name: &str, promoted: Option<Epoch>| Adopted {
        since: None,
        instance: id(name),
        node: node.clone(),
        run: RunId(1),
        running: true,
        current: true,
        promoted,
        acts: promoted,
        served: promoted.is_some(),
        followed: None,
        stands_by: None,
        healthy: promoted.is_some(),
    };
    let mut instances = vec![adopted("db-1", Some(Epoch(1)))];
    instances.extend((0..standbys).map(|number| adopted(&format!("db-{}", number + 2), None)));
    let held = SlotKnown {
        since: Timestamp(0),
        slot: SlotId {
            service: id("db-1").service().clone(),
            slot: 0,
        },
        held: true,
        holder: id("db-1"),
        epoch: Epoch(1),
        revision: Revision(10),
        attempt: 1,
        node: node.clone(),
        session: None,
        served: true,
        data: None,
        served_before: None,
        because: "it was told so".into(),
        begun: None,
    };
    let mut core = Core::new(1, 1_000, 0, [node]);
    let recovered = Recovered {
        worked: None,
        cluster: spec::parse(&file, "shop.toml").unwrap().cluster,
        slots: vec![held],
        instances,
        numbers: Vec::new(),
        routes: Vec::new(),
        elsewhere: Vec::new(),
    };
    core.handle(Event::Recovered(recovered), Timestamp(0));
    assert_eq!(ended(&mut core), None);
    core
}

/// A check of the active fails. Returns why that is ended, if it is.
fn fails(core: &mut Core, now: Timestamp) -> Option<String> {
    probe(core, "db-1", ProbeOutcome::Fail("refused".into()), now);
    ended(core)
}

fn probe(core: &mut Core, name: &str, outcome: ProbeOutcome, now: Timestamp) {
    let probed = Event::Probed {
        instance: id(name),
        run: RunId(1),
        standby: false,
        began: now,
        outcome,
    };
    core.handle(probed, now);
}

fn ended(core: &mut Core) -> Option<String> {
    let decided = std::iter::from_fn(|| core.poll_decision());
    let stop = |action: &Action| matches!(action, Action::Stop { instance, .. } if *instance == id("db-1"));
    let because: Vec<Reason> = decided
        .filter(|decision| stop(&decision.action))
        .map(|decision| decision.because)
        .collect();
    because.first().map(ToString::to_string)
}

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}
