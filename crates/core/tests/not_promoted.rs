//! A promotion that failed, and a node that was taken down in order: what other nodes say of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot do its part has failed")]

mod pair;

use decisions::{Action, ClusterEvent, Core, Event, HookOutcome, NotPromoted, NoteKind, Report};
use model::{Epoch, HookKind, InstanceId, Revision, RunId, ServiceState, Timestamp};
use pair::{holder_and_standby, id, node, says, slot};
use std::time::Duration;

const FILE: &str = r#"
[service.db]
command = ["db"]
exclusive = true
active = 1
standby = 1
standby_mode = "warm"
on_promote = ["promote"]
on_demote = ["demote"]
"#;

const NOW: Timestamp = Timestamp(1_000_000);

fn tell(core: &mut Core, event: ClusterEvent) {
    core.handle(Event::Cluster(event), NOW);
    while core.poll_decision().is_some() {}
}

/// What `b` says of its instance, and of its promotion.
fn said(at: Option<u64>) -> ClusterEvent {
    let Event::Cluster(ClusterEvent::Reported(report)) = says(None) else {
        panic!("b says something else");
    };
    ClusterEvent::Reported(Report {
        not_promoted: at.map(|epoch| NotPromoted {
            slot: 0,
            epoch: Epoch(epoch),
            what: "exit code 3".into(),
        }),
        last_failure: Some("connection refused".into()),
        ..report
    })
}

fn why(core: &Core) -> (ServiceState, String) {
    let view = core.view(NOW);
    let service = &view.services[0];
    (service.state, service.because.to_string())
}

#[test]
fn others_tell_why_a_promotion_failed_and_not_what_followed_from_it() {
    let mut core = holder_and_standby(FILE, NOW);
    tell(&mut core, ClusterEvent::Slot(slot(20, 7, "db-2", "b", 2, false)));
    tell(&mut core, said(Some(2)));
    let (state, because) = why(&core);
    assert_eq!(state, ServiceState::Down);
    assert_eq!(because, "db-2 took the slot and did not come to serve: exit code 3");
    let view = core.view(NOW);
    let instance = view.services[0]
        .instances
        .iter()
        .find(|instance| instance.id == id("db-2"));
    assert_eq!(
        instance.and_then(|instance| instance.not_promoted.clone()).as_deref(),
        Some("exit code 3")
    );
    // It serves after all: what was is told by nobody any more.
    tell(&mut core, ClusterEvent::Slot(slot(21, 8, "db-2", "b", 3, true)));
    core.handle(says(Some(3)), NOW);
    assert_ne!(why(&core).0, ServiceState::Down);
    assert!(
        core.view(NOW).services[0]
            .instances
            .iter()
            .all(|instance| instance.not_promoted.is_none())
    );
    // And what its node said before is of an earlier epoch.
    tell(&mut core, said(Some(2)));
    assert!(!why(&core).1.contains("did not come to serve"), "{}", why(&core).1);
}

#[test]
fn who_sees_a_promotion_fail_tells_the_others_why() {
    let mut core = holder_and_standby(FILE, NOW);
    // It is given to `b` and comes back.
    tell(&mut core, ClusterEvent::Slot(slot(20, 7, "db-2", "b", 2, true)));
    core.handle(says(Some(2)), NOW);
    demoted(&mut core);
    tell(&mut core, ClusterEvent::Slot(slot(21, 8, "db-1", "a", 3, false)));
    let epoch = Epoch(3);
    let armed = Event::Armed {
        instance: id("db-1"),
        epoch,
        result: Ok(()),
    };
    core.handle(armed, NOW);
    core.handle(
        done(
            "db-1",
            HookKind::Promote,
            epoch,
            HookOutcome::Failed("exit code 3".into()),
        ),
        NOW,
    );
    while core.poll_decision().is_some() {}
    let gone = Event::Gone {
        instance: id("db-1"),
        run: RunId(1),
    };
    core.handle(gone, NOW);
    let told = core.report_of(&id("db-1"), NOW).and_then(|report| report.not_promoted);
    let told = told.expect("its promotion failed");
    assert_eq!((told.slot, told.epoch), (0, epoch));
    assert!(told.what.contains("exit code 3"), "{}", told.what);
}

#[test]
fn a_node_that_gave_its_session_back_was_taken_down_and_is_not_lost() {
    for in_order in [true, false] {
        let mut core = holder_and_standby(FILE, NOW);
        while core.poll_decision().is_some() {}
        let (session, gone) = (Revision(2), node("b"));
        let ended = ClusterEvent::Ended {
            node: gone.clone(),
            session,
            in_order,
        };
        core.handle(Event::Cluster(ended), NOW);
        core.handle(
            Event::Cluster(ClusterEvent::Session {
                node: gone,
                session: None,
            }),
            NOW,
        );
        let mut noted = Vec::new();
        while let Some(decision) = core.poll_decision() {
            if matches!(&decision.action, Action::Note(note) if note.kind == NoteKind::NodeLost) {
                noted.push(decision.because.to_string());
            }
        }
        let expected = match in_order {
            true => "the operator took node b down in order (`down`)",
            false => "node b has no session",
        };
        assert_eq!(noted, [expected]);
        let view = core.view(NOW + Duration::from_millis(1));
        let instances = &view.services[0].instances;
        let there = instances.iter().find(|instance| instance.id == id("db-2"));
        assert_eq!(
            there.map(|instance| instance.because.to_string()).as_deref(),
            Some(expected)
        );
    }
}

fn demoted(core: &mut Core) {
    while core.poll_decision().is_some() {}
    core.handle(done("db-1", HookKind::Demote, Epoch(1), HookOutcome::Done), NOW);
    while core.poll_decision().is_some() {}
}

fn done(instance: &str, hook: HookKind, epoch: Epoch, outcome: HookOutcome) -> Event {
    let instance: InstanceId = id(instance);
    Event::HookDone {
        instance,
        run: RunId(1),
        hook,
        epoch,
        outcome,
    }
}
